#include "heap.h"

#include <stdbool.h>

_Thread_local long heap_live = 0;
_Thread_local long heap_left = -1;
_Thread_local long heap_refused = 0;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void __real_free(void *block);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void __wrap_free(void *block);

static bool is_refused(void) {
    if (heap_left == 0) {
        heap_refused++;
        return true;
    }
    heap_left -= heap_left > 0;
    return false;
}

void *__wrap_malloc(size_t size) {
    void *block = is_refused() ? NULL : __real_malloc(size);
    heap_live += block != NULL;
    return block;
}

void *__wrap_calloc(size_t count, size_t size) {
    void *block = is_refused() ? NULL : __real_calloc(count, size);
    heap_live += block != NULL;
    return block;
}

void *__wrap_realloc(void *block, size_t size) {
    void *grown = is_refused() ? NULL : __real_realloc(block, size);
    heap_live += grown != NULL && block == NULL;
    return grown;
}

void __wrap_free(void *block) {
    heap_live -= block != NULL;
    __real_free(block);
}
