/* The heap under test: it counts live blocks, and can refuse. Link with -Wl,--wrap for each of
 * malloc, calloc, realloc and free. */
#ifndef HEAP_H
#define HEAP_H

#include <stddef.h>

/* Blocks that are allocated and not freed yet. */
extern _Thread_local long heap_live;

/* How many more requests succeed before all are refused; negative: no end. */
extern _Thread_local long heap_left;

/* How many requests were refused. */
extern _Thread_local long heap_refused;

#endif
