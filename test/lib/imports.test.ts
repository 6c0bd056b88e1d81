// What `import "tsq-native"` loads: nothing that takes long, whatever a program goes on to do with it.
import { readFileSync } from "node:fs"
import { dirname, join, relative } from "node:path"
import { fileURLToPath } from "node:url"
import t from "tap"

const lib = fileURLToPath(new URL("../../lib/", import.meta.url))

/** Modules that a file names in imports and exports that remain at run time; `import()` is not among them. */
function imports(path: string): string[] {
  const found: string[] = []
  for (const match of readFileSync(path, "utf8").matchAll(/^(?:import|export)\s([\w\s{},*$]*?\sfrom )?"([^"]+)"$/gm)) {
    const [, clause = "", module = ""] = match
    const names = /\{([^}]*)\}/
      .exec(clause)?.[1]
      ?.split(",")
      .filter(name => name.trim() !== "")
    const onlyTypes = /^\s*type\b/.test(clause) || (names?.every(name => /^\s*type\b/.test(name)) ?? false)
    if (!onlyTypes) found.push(module)
  }
  return found
}

/** Packages, and the files of lib/ that name them, reached from an entry. */
function packages(entry: string): Map<string, string[]> {
  const found = new Map<string, string[]>()
  const seen = new Set<string>()
  const visit = (path: string): void => {
    if (seen.has(path)) return
    seen.add(path)
    for (const module of imports(path)) {
      if (module.startsWith(".")) visit(join(dirname(path), module))
      else if (!module.startsWith("node:")) found.set(module, [...(found.get(module) ?? []), relative(lib, path)])
    }
  }
  visit(join(lib, entry))
  t.ok(seen.size > 5, `${entry} and ${seen.size - 1} files`)
  return found
}

t.same([...packages("index.ts")], [], "the library's face needs no package")
t.same([...packages("engine/load-model.ts")], [], "nor does what opens a cache file")
t.ok(packages("models/registry.ts").has("zod"), "while imports of packages are seen at all")
