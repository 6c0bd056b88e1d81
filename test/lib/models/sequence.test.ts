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

t.test("pages that are kept exactly: the first ones, and the window of the first and of the last query", async t => {
  const allocator = new PageAllocator(20, { sinkPages: 1, windowPages: 2, pages: 5 })
  const sequence = new SequenceCache(allocator)
  t.same(sequence.next(20).exact, [0, 1])
  t.same(sequence.next(20).exact, [0, 1], "asked again, nothing more is taken")
  sequence.advance(20)
  // 20 ... 119: the first query reads pages 0 and 1, the last one 6 and 7.
  t.same(sequence.next(100).exact, [0, 1, -1, -1, -1, -1, 2, 3])
  sequence.advance(100)
  t.same(sequence.next(1).exact, [0, -1, -1, -1, -1, -1, 2, 3])
  sequence.advance(8)
  t.same(sequence.next(1).exact, [0, -1, -1, -1, -1, -1, -1, 3, 2])
  const other = new SequenceCache(allocator)
  t.equal(other.next(17).exact!.length, 2)
  t.throws(() => new SequenceCache(allocator).next(1), { code: "ERR_MEMORY", message: /keeps 5 pages exactly/ })
  sequence.release()
  t.equal(new SequenceCache(allocator).next(40).exact!.length, 3)
})
