import { awq } from "./awq.ts"
import type { Transform } from "./transform.ts"

const transforms: Record<Transform["name"], Transform> = { awq }

export const transformByName = (name: Transform["name"]): Transform => transforms[name]
