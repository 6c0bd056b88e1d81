import { awq } from "./awq.ts"
import { smooth } from "./smooth.ts"
import type { Transform } from "./transform.ts"

const transforms: Record<Transform["name"], Transform> = { awq, smooth }

export const transformByName = (name: Transform["name"]): Transform => transforms[name]
