/// What a call settles when it starts and keeps in all its steps, whatever is set meanwhile: a layer whose steps had
/// different instruction sets would have bits of neither.
struct CallSettings {
  let instructionSet: InstructionSet
  /// The most threads that a step may have.
  let threads: Int
  let interruptCheck: InterruptCheck?

  init(_ interruptCheck: InterruptCheck? = nil, threads: Int = ThreadCount.current) throws(AttentionError) {
    instructionSet = try Dispatch.current()
    self.threads = threads
    self.interruptCheck = interruptCheck
  }

  /// How many threads are worth it for so many items of work that take one core so many cycles.
  func participants(cycles: Double, items: Int) -> Int {
    ThreadPool.participants(cycles: cycles, upTo: min(threads, max(items, 1)))
  }
}
