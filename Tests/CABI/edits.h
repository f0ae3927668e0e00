/* Edits that turn a good call into a bad one, and the tables of such calls: what is edited, the status, and the
 * argument that the message must name. C11. */
#ifndef EDITS_H
#define EDITS_H

#include "tensors.h"

typedef enum field {
  NOTHING,
  MISSING, /* the tensor's pointer becomes NULL */
  DATA,    /* its data becomes NULL */
  SHIFT,   /* its data moves by `number` bytes */
  DTYPE,   /* its dtype becomes `number` */
  RANK,    /* its rank becomes `number` */
  LENGTH,  /* its length in `axis` becomes `number` */
  STRIDE,  /* its stride in `axis` becomes `number` */
  ALIAS,   /* its data becomes that of the operand `number` */
  ELEMENT, /* its first element becomes `number` */
  CALL     /* from here on the edits concern the call, not an operand; each table has its own */
} field;

typedef struct edit {
  int what;  /* a field */
  int which; /* an operand, or ANY for those that concern none */
  int axis;
  int64_t number;
} edit;

enum { FORWARD = 1, BACKWARD = 2, BOTH = 3, ANY = 0 };

typedef struct bad_call {
  const char *names;
  swiftattn_status status;
  int calls; /* in which of the functions it is bad */
  edit edits[6];
} bad_call;

#define ARGUMENT SWIFTATTN_INVALID_ARGUMENT
#define SHAPE SWIFTATTN_INVALID_SHAPE
#define ELEMENT_TYPE SWIFTATTN_INVALID_DTYPE

/* Applies an edit of a tensor, MISSING apart. */
static inline void edit_tensor(array *operands, const edit *change) {
  swiftattn_tensor *view = &operands[change->which].view;
  const int64_t origin[MAX_RANK] = {0};
  switch (change->what) {
  case DATA:
    view->data = NULL;
    break;
  case SHIFT:
    view->data = (char *)view->data + change->number;
    break;
  case DTYPE:
    view->dtype = (int32_t)change->number;
    break;
  case RANK:
    view->rank = (int32_t)change->number;
    break;
  case LENGTH:
    view->shape[change->axis] = change->number;
    break;
  case STRIDE:
    view->strides[change->axis] = change->number;
    break;
  case ALIAS:
    view->data = operands[change->number].view.data;
    break;
  default:
    tensor_set(view, origin, view->rank, (double)change->number);
  }
}

/* One line, a sentence's length, and the argument's name as a word of it. */
static inline int message_names(const char *message, const char *name) {
  const char *found = strstr(message, name);
  return found && strlen(message) >= strlen(name) + 8 && strchr(message, ' ') && !strchr(message, '\n');
}

#endif /* EDITS_H */
