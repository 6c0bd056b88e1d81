import t from "tap"
import { StopStrings } from "../../../lib/engine/stop-strings.ts"

/** Pieces through stop strings: what is shown after each, and what finish adds. */
function run(stops: string[], pieces: string[]): { shown: string[]; rest: string; stopped: boolean } {
  const strings = new StopStrings(stops)
  const shown = pieces.map(piece => strings.push(piece))
  return { shown, rest: strings.finish(), stopped: strings.stopped }
}

t.test("without stop strings everything passes at once", async t => {
  t.same(run([], ["a", "", "bc"]), { shown: ["a", "", "bc"], rest: "", stopped: false })
})

t.test("a stop string within a piece and across pieces", async t => {
  t.same(run(["END"], ["some END text"]), { shown: ["some "], rest: "", stopped: true })
  t.same(run(["END"], ["some E", "N", "D text", "more"]), { shown: ["some ", "", "", ""], rest: "", stopped: true })
})

t.test("what only looked like a stop string is shown later", async t => {
  t.same(run(["END"], ["E", "N", "d"]), { shown: ["", "", "ENd"], rest: "", stopped: false })
  t.same(run(["END"], ["xEEN", "END"]), { shown: ["xE", "EN"], rest: "", stopped: true })
  t.same(run(["END"], ["x E"]), { shown: ["x "], rest: "E", stopped: false })
})

t.test("the first of several wins, whatever its place in the list", async t => {
  t.same(run(["later", "so"], ["so it is later"]), { shown: [""], rest: "", stopped: true })
  t.same(run(["aab", "b"], ["aaa", "b"]), { shown: ["a", ""], rest: "", stopped: true })
  t.same(run(["abc", "b"], ["ab"]), { shown: ["a"], rest: "", stopped: true })
})
