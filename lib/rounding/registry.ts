// Roundings by name.
import { TsqError } from "../core/errors.ts"
import { closest, describe, listChoices } from "../core/options.ts"
import { autoRound } from "./auto-round.ts"
import { gptq } from "./gptq.ts"
import { hqq } from "./hqq.ts"
import { lsq } from "./lsq.ts"
import { mse } from "./mse.ts"
import { nearest } from "./nearest.ts"
import { qronos } from "./qronos.ts"
import type { Rounding } from "./rounding.ts"

const roundings: ReadonlyMap<string, Rounding> = new Map(
  [nearest, mse, gptq, hqq, autoRound, lsq, qronos].map(rounding => [rounding.name, rounding]),
)

export const roundingNames = [...roundings.keys()] as Rounding["name"][]

/** ERR_OPTION for a name that is none. */
export function roundingByName(name: string): Rounding {
  const rounding = roundings.get(name)
  if (rounding) return rounding
  const meant = typeof name === "string" ? closest(name, roundingNames) : null
  throw new TsqError(
    "ERR_OPTION",
    `rounding is ${describe(name)}, expected ${listChoices(roundingNames)}${meant ? `; did you mean ${JSON.stringify(meant)}?` : ""}`,
  )
}
