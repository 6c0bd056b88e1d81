// exp, tanh and erfc of 16 lanes. Include after an instruction set's simd.h. Coefficients: interpolation at Chebyshev
// nodes.
#pragma once

namespace tsq {
namespace {

// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2; relative error below 1.5 ulp, gradual underflow and overflow
// to infinity included; NaN stays.
TSQ_INLINE Lanes exp(Lanes x) {
  x = min(set1(89.0f), max(set1(-105.0f), x));
  const Lanes n = roundEven(mul(x, set1(1.44269504f)));
  Lanes r = fmaNegated(n, set1(0.693147182f), x);  // ln 2 rounded to f32 …
  r = fmaNegated(n, set1(-1.90465430e-9f), r);     // … and the rest of it
  Lanes p = fma(set1(1.98914800e-4f), r, set1(1.39340898e-3f));
  p = fma(p, r, set1(8.33331048e-3f));
  p = fma(p, r, set1(4.16664593e-2f));
  p = fma(p, r, set1(1.66666672e-1f));
  p = fma(p, r, set1(0.5f));
  p = add(fma(p, mul(r, r), r), set1(1.0f));
  return scaleByPower(p, n);
}

// An odd polynomial near zero, 1 - 2 / (e^2x + 1) elsewhere.
TSQ_INLINE Lanes tanh(Lanes x) {
  const Lanes z = mul(x, x);
  Lanes p = fma(set1(2.29274482e-3f), z, set1(-8.34394526e-3f));
  p = fma(p, z, set1(2.17689183e-2f));
  p = fma(p, z, set1(-5.39592579e-2f));
  p = fma(p, z, set1(1.33333042e-1f));
  p = fma(p, z, set1(-3.33333343e-1f));
  const Lanes near = fma(mul(p, z), x, x);
  const Lanes far = sub(set1(1.0f), div(set1(2.0f), add(exp(add(x, x)), set1(1.0f))));
  return ifLess(z, set1(0.390625f), near, far);
}

// erfc(z) for z >= 0: e^(-z^2) t P(t) with t = 1 / (1 + z / 2); relative error below 1e-6. Beyond 10 it is 0 in f32.
TSQ_INLINE Lanes erfc(Lanes z) {
  z = min(set1(10.5f), z);
  const Lanes t = div(set1(1.0f), fma(set1(0.5f), z, set1(1.0f)));
  Lanes p = fma(set1(-0.0597149208f), t, set1(0.287768304f));
  p = fma(p, t, set1(-0.493863642f));
  p = fma(p, t, set1(0.285697699f));
  p = fma(p, t, set1(-0.0318417586f));
  p = fma(p, t, set1(0.204853654f));
  p = fma(p, t, set1(0.242572889f));
  p = fma(p, t, set1(0.282445043f));
  p = fma(p, t, set1(0.282082677f));
  // z^2 = square - rest: its rounding error would count z^2 times.
  const Lanes square = mul(z, z), rest = fmaNegated(z, z, square);
  const Lanes power = exp(sub(zeros(), square));
  return mul(mul(p, t), fma(power, rest, power));
}

}  // namespace
}  // namespace tsq
