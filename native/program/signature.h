// What every operation takes, and its parameters by name.
#pragma once
#include "program/program.h"

namespace tsq {

struct Signature {
  const char* name;
  int inputs;           // of Op::in, the rest -1
  bool output;          // whether Op::out is used
  int weights;          // of Op::weight that must be given
  int optionalWeights;  // that may follow
  int parameters;       // of Op::p
  const char* parameterNames[6];
};

// Null for an unknown kind.
const Signature* signatureOf(OpKind kind);

// Op::p of an attention op as numbers of their own type.
struct AttentionParameters {
  int64_t heads, kvHeads, headDim, window;  // window 0: none
  float scale, softcap;                     // softcap 0: none
};
AttentionParameters attentionParameters(const Op& op);

// Op::p of a columns op: piece i of a row is its columns begin + i * stride … + length.
struct ColumnsParameters {
  int64_t begin, pieces, length, stride;
};
ColumnsParameters columnsParameters(const Op& op);

// kFormat with the op's position and what is wrong with it.
Status validateSpec(const ProgramSpec& spec);

}  // namespace tsq
