/* What must hold of every call, whatever it computes. C11. */
#ifndef FUZZ_CALL_H
#define FUZZ_CALL_H

#include "edits.h"
#include "judge.h"

#include <pthread.h>

/* More multiply-adds than this are not computed a second time by the reference, and not at all above the other limit.
 */
static const double most_for_reference = 3e5, most_to_run = 2e7;

/* The interrupt callback's context: it says stop when it has been asked `patience` times. */
typedef struct interrupter {
  int64_t patience, asked;
  pthread_t caller;
  int has_stopped, was_elsewhere;
} interrupter;

static inline int32_t interrupter_ask(void *context) {
  interrupter *self = context;
  self->was_elsewhere |= !pthread_equal(self->caller, pthread_self());
  self->has_stopped |= ++self->asked > self->patience;
  return self->has_stopped;
}

/* Which calls fail for what was edited, as libFuzzer's counters: the library's own branches do not tell operands apart,
 * which share one check. */
enum { FUZZED_CALLS = 7, FUZZED_SUBJECTS = 64 };
__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t refusals[FUZZED_CALLS][FUZZED_SUBJECTS];

/* An operand of a fuzzed call, or what of the call itself. */
static inline int subject_of(const edit *change) {
  return change->what < CALL ? change->which : FUZZED_SUBJECTS - 1 - (change->what - CALL);
}

typedef struct outcome {
  const char *call;
  int number;  /* of the call, below FUZZED_CALLS */
  int subject; /* what was edited last; negative before */
  verdict found;
  int is_good; /* the call must succeed */
  swiftattn_status status;
  interrupter *stops;
} outcome;

/* A call that may be made: its memory is there, or it fails. */
static inline int call_is_safe(const verdict *found) { return found->is_bad || !found->is_unbacked; }

static inline void check_outcome(const outcome *made) {
  const char *message = swiftattn_last_error();
  const swiftattn_status status = made->status;
  CHECK(status >= SWIFTATTN_OK && status <= SWIFTATTN_UNSUPPORTED_ISA, "%s: status %d", made->call, (int)status);
  const int lacks_memory = made->found.is_sized && status == SWIFTATTN_OUT_OF_MEMORY;
  const int is_refused = status >= SWIFTATTN_INVALID_ARGUMENT && status <= SWIFTATTN_INVALID_SHAPE;
  CHECK(!made->found.is_bad || is_refused || lacks_memory, "%s: a bad call has status %d", made->call, (int)status);
  CHECK(status == SWIFTATTN_OK || (strlen(message) > 8 && !strchr(message, '\n')), "%s: message \"%s\"", made->call,
        message);
  CHECK(!made->stops->was_elsewhere, "%s: the callback was called on another thread", made->call);
  const int is_interrupted = status == SWIFTATTN_INTERRUPTED;
  CHECK(made->stops->has_stopped || !is_interrupted, "%s: interrupted unasked", made->call);
  CHECK(status != SWIFTATTN_OK || !made->stops->has_stopped, "%s: not interrupted", made->call);
  CHECK(!made->is_good || status == SWIFTATTN_OK || is_interrupted, "%s: a good call has status %d: %s", made->call,
        (int)status, message);
  if (made->found.is_bad && made->subject >= 0)
    refusals[made->number][made->subject] = 1;
  made->stops->has_stopped = 0; /* the next call begins anew */
}

/* Whether outputs may hold anything: a call that ended half-way leaves them unspecified. */
static inline int outputs_may_change(swiftattn_status status) {
  return status == SWIFTATTN_OK || status == SWIFTATTN_INTERRUPTED || status == SWIFTATTN_OUT_OF_MEMORY;
}

#endif /* FUZZ_CALL_H */
