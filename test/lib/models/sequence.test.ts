import t from "tap"
import { PageAllocator, pagesFor, SequenceCache } from "../../../lib/models/sequence.ts"

t.test("pages are taken as a sequence grows and given back", async t => {
  const allocator = new PageAllocator(4)
  const first = new SequenceCache(allocator)
  const second = new SequenceCache(allocator)
  t.same(first.next(16), { rows: 16, context: 0, pages: [0] })
  first.advance(16)
  t.same(second.next(17).pages, [1, 2])
  second.advance(17)
  t.same(first.next(1), { rows: 1, context: 16, pages: [0, 3] })
  t.equal(allocator.available, 0)
  t.throws(() => second.next(16), { code: "ERR_MEMORY", message: /4 pages \(64 tokens\) is full/ })
  first.release()
  t.equal(allocator.available, 2)
  t.equal(first.length, 0)
  t.same(second.next(16).pages.length, 3)
})

t.test("pages of a length", async t => {
  t.same([0, 1, 16, 17].map(pagesFor), [0, 1, 1, 2])
})
