// Runs asynchronous work one after another, in the order it was asked for.

export class SerialQueue {
  #tail: Promise<unknown> = Promise.resolve()

  /** The result of `work`, once everything before it has settled. A failure concerns its own caller only. */
  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work)
    this.#tail = result.then(
      () => undefined,
      () => undefined,
    )
    return result
  }
}
