import { execFileSync } from "node:child_process"
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { writeNewFile } from "../../../lib/containers/disk.ts"
import { OutputDirectory } from "../../../lib/containers/output.ts"
import { folder, tsqError } from "./support.ts"

t.test("nothing under the final name before commit", async t => {
  const parent = folder(t)
  const output = await OutputDirectory.create(join(parent, "deep", "out"))
  writeFileSync(join(output.path, "a"), "1")
  mkdirSync(join(output.path, "sub"))
  writeFileSync(join(output.path, "sub", "b"), "2")
  t.notOk(existsSync(join(parent, "deep", "out")))
  t.match(readdirSync(join(parent, "deep")), [/^out\.tsq-partial-/])
  await output.commit()
  t.same(readdirSync(join(parent, "deep")), ["out"])
  t.equal(readFileSync(join(parent, "deep", "out", "sub", "b"), "utf8"), "2")
})

t.test("discard leaves nothing", async t => {
  const parent = folder(t)
  const output = await OutputDirectory.create(join(parent, "out"))
  writeFileSync(join(output.path, "a"), "1")
  await output.discard()
  t.same(readdirSync(parent), [])
  await output.discard()
  await t.rejects(output.commit(), tsqError("ERR_IO", /cannot complete the output folder/))
})

t.test("an earlier output survives unless it is to be replaced, and until then", async t => {
  const parent = folder(t)
  const out = join(parent, "out")
  mkdirSync(out)
  writeFileSync(join(out, "old"), "old")
  await t.rejects(OutputDirectory.create(out), tsqError("ERR_OPTION", /exists already.*--force/))
  const failed = await OutputDirectory.create(out, { force: true })
  writeFileSync(join(failed.path, "new"), "new")
  t.same(readdirSync(out), ["old"])
  await failed.discard()
  t.same(readdirSync(out), ["old"])
  const output = await OutputDirectory.create(out, { force: true })
  writeFileSync(join(output.path, "new"), "new")
  await output.commit()
  t.same(readdirSync(out), ["new"])
  t.same(readdirSync(parent), ["out"])
})

t.test("an output that appeared meanwhile is not replaced", async t => {
  const out = join(folder(t), "out")
  const output = await OutputDirectory.create(out)
  mkdirSync(out)
  writeFileSync(join(out, "theirs"), "")
  await t.rejects(output.commit(), tsqError("ERR_OPTION", /exists already/))
  t.same(readdirSync(out), ["theirs"])
  await output.discard()
})

t.test("a commit that fails puts the earlier output back", async t => {
  const parent = folder(t)
  const out = join(parent, "out")
  mkdirSync(out)
  writeFileSync(join(out, "old"), "old")
  const output = await OutputDirectory.create(out, { force: true })
  await output.discard()
  await t.rejects(output.commit(), tsqError("ERR_IO"))
  t.same(readdirSync(out), ["old"])
  t.same(readdirSync(parent), ["out"])
})

t.test("names that cannot be an output", async t => {
  const parent = folder(t)
  writeFileSync(join(parent, "file"), "")
  await t.rejects(OutputDirectory.create(""), tsqError("ERR_OPTION", /no name/))
  await t.rejects(
    OutputDirectory.create(join(parent, "file"), { force: true }),
    tsqError("ERR_OPTION", /is an existing file/),
  )
  await t.rejects(OutputDirectory.create(join(parent, "file", "out")), tsqError("ERR_IO", /file/))
})

t.test("source and output", async t => {
  const parent = folder(t)
  const source = join(parent, "models", "source")
  mkdirSync(source, { recursive: true })
  symlinkSync(source, join(parent, "link"))
  for (const out of [source, `${source}/`, join(source, "..", "source"), join(parent, "link")])
    await t.rejects(OutputDirectory.create(out, { source, force: true }), tsqError("ERR_OPTION", /same folder/), out)
  await t.rejects(
    OutputDirectory.create(source, { source: join(parent, "link"), force: true }),
    tsqError("ERR_OPTION", /same folder/),
  )
  await t.rejects(
    OutputDirectory.create(join(parent, "models"), { source, force: true }),
    tsqError("ERR_OPTION", /contains the source/),
  )
  t.same(readdirSync(parent).sort(), ["link", "models"])
  const beside = await OutputDirectory.create(join(parent, "models", "source-w4"), { source })
  await beside.commit()
  t.same(readdirSync(join(parent, "models")).sort(), ["source", "source-w4"])
})

t.test("a parent that cannot be written to", async t => {
  const parent = folder(t)
  const locked = join(parent, "locked")
  mkdirSync(locked)
  if (process.getuid?.() === 0) {
    // Permissions do not hold root back; a read-only file system does.
    try {
      execFileSync("mount", ["-t", "tmpfs", "-o", "ro", "none", locked], { stdio: "ignore" })
    } catch {
      return t.comment("running as root, and mounting is not allowed here")
    }
    t.teardown(() => execFileSync("umount", [locked]))
  } else chmodSync(locked, 0o500)
  await t.rejects(
    OutputDirectory.create(join(locked, "out")),
    tsqError("ERR_IO", /cannot create the output folder .*(read-only|permission denied): choose/),
  )
})

t.test("writeNewFile never overwrites", async t => {
  const path = join(folder(t), "a")
  await writeNewFile(path, "one")
  t.equal(readFileSync(path, "utf8"), "one")
  await t.rejects(writeNewFile(path, "two"), tsqError("ERR_IO", /cannot write .*a.*EEXIST/))
  t.equal(readFileSync(path, "utf8"), "one")
})
