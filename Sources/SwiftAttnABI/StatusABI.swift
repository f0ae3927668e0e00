import CSwiftAttn
import CSwiftAttnShims
import SwiftAttn

/// Runs a call and turns what it throws into a status and this thread's last error.
func reportingStatus(_ call: () throws(AttentionError) -> Void) -> swiftattn_status {
  do throws(AttentionError) {
    try call()
    return SWIFTATTN_OK
  } catch {
    remember(error)
    return error.status
  }
}

@c @implementation
public func swiftattn_last_error() -> UnsafePointer<CChar>! { UnsafePointer(sa_last_error_text()) }

private func remember(_ error: AttentionError) {
  error.message.copy(to: sa_last_error_text(), capacity: Int(sa_last_error_capacity))
}

extension AttentionError {
  fileprivate var status: swiftattn_status {
    switch kind {
    case .invalidArgument: SWIFTATTN_INVALID_ARGUMENT
    case .invalidElementType: SWIFTATTN_INVALID_DTYPE
    case .invalidShape: SWIFTATTN_INVALID_SHAPE
    case .outOfMemory: SWIFTATTN_OUT_OF_MEMORY
    case .interrupted: SWIFTATTN_INTERRUPTED
    case .unsupportedInstructionSet: SWIFTATTN_UNSUPPORTED_ISA
    }
  }
}
