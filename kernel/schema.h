/* The fields of a line-item type, found by name. Nothing of a schema changes once it is compiled.
 */
#ifndef SCHEMA_H
#define SCHEMA_H

#include "kernel.h"
#include "scan.h"

struct field {
    struct span name; /* the closing quote of a key stands behind it */
    enum kernel_kind kind;
};

struct kernel_schema {
    size_t count;
    bool null_fits; /* a null is no value, and is not rescued */
    struct field *fields;
    uint8_t *names;
    /* A hash table of field numbers plus 1, by name in lower case; 0 is a free slot. */
    uint16_t *slots;
    size_t slot_count; /* a power of two, at least twice as many as fields */
};

/* Return a hash of a name of plain ASCII in lower case. */
uint32_t hash_of(struct span name);

/* Return the field whose name is `name` in any case, or `schema->count`. */
size_t schema_find(const struct kernel_schema *schema, struct span name, uint32_t hash);

static inline bool is_name(struct span one, struct span other) {
    return one.length == other.length && is_same(one.start, other.start, one.length);
}

#endif
