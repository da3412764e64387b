#include "schema.h"

#include <stdlib.h>

static uint8_t lower(uint8_t byte) {
    return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte | 0x20) : byte;
}

/* FNV-1a */
uint32_t hash_of(struct span name) {
    uint32_t hash = 2166136261u;
    for (size_t place = 0; place < name.length; place++)
        hash = (hash ^ lower(name.start[place])) * 16777619u;
    return hash;
}

static bool is_name_in_any_case(struct span one, struct span other) {
    if (one.length != other.length)
        return false;
    for (size_t place = 0; place < one.length; place++)
        if (lower(one.start[place]) != lower(other.start[place]))
            return false;
    return true;
}

size_t schema_find(const struct kernel_schema *schema, struct span name, uint32_t hash) {
    size_t mask = schema->slot_count - 1;
    for (size_t slot = hash & mask; schema->slots[slot]; slot = (slot + 1) & mask) {
        size_t field = schema->slots[slot] - 1u;
        if (is_name_in_any_case(schema->fields[field].name, name))
            return field;
    }
    return schema->count;
}

/* Add a field whose name no other has, not even in another case. */
static bool add_field(struct kernel_schema *schema, size_t field) {
    struct span name = schema->fields[field].name;
    uint32_t hash = hash_of(name);
    if (schema_find(schema, name, hash) < schema->count)
        return false;
    size_t mask = schema->slot_count - 1, slot = hash & mask;
    while (schema->slots[slot])
        slot = (slot + 1) & mask;
    schema->slots[slot] = (uint16_t)(field + 1);
    return true;
}

/* Names stand in the text as they are: plain ASCII. */
static bool is_usable(const char *name, size_t length) {
    for (size_t place = 0; place < length; place++)
        if (!is_plain((uint8_t)name[place]))
            return false;
    return length <= KERNEL_MAX_NAME;
}

static size_t slots_for(size_t count) {
    size_t slots = 8;
    while (slots < 2 * count)
        slots *= 2;
    return slots;
}

/* Keep a copy of the names, each with a quote behind it in place of its NUL. */
static bool copy_names(struct kernel_schema *schema, const char *names, const int32_t *kinds) {
    const char *name = names;
    for (size_t field = 0; field < schema->count; field++) {
        if (kinds[field] < 0 || kinds[field] >= KERNEL_KINDS || !is_usable(name, strlen(name)))
            return false;
        name += strlen(name) + 1;
    }
    size_t length = (size_t)(name - names);
    schema->names = malloc(length + 1);
    if (!schema->names)
        return false;
    memcpy(schema->names, names, length);
    uint8_t *start = schema->names;
    for (size_t field = 0; field < schema->count; field++) {
        size_t name_length = strlen((char *)start);
        schema->fields[field] =
            (struct field){{start, name_length}, (enum kernel_kind)kinds[field]};
        start[name_length] = '"';
        start += name_length + 1;
    }
    return true;
}

struct kernel_schema *kernel_compile(const char *names, const int32_t *kinds, int32_t count,
                                     int32_t null_fits) {
    if (count < 0 || count > KERNEL_MAX_FIELDS)
        return NULL;
    struct kernel_schema *schema = calloc(1, sizeof *schema);
    if (!schema)
        return NULL;
    schema->count = (size_t)count;
    schema->null_fits = null_fits != 0;
    schema->slot_count = slots_for(schema->count);
    schema->fields = calloc(schema->count + 1, sizeof *schema->fields);
    schema->slots = calloc(schema->slot_count, sizeof *schema->slots);
    bool is_whole = schema->fields && schema->slots && copy_names(schema, names, kinds);
    for (size_t field = 0; is_whole && field < schema->count; field++)
        is_whole = add_field(schema, field);
    if (is_whole)
        return schema;
    kernel_free(schema);
    return NULL;
}

void kernel_free(struct kernel_schema *schema) {
    if (!schema)
        return;
    free(schema->fields);
    free(schema->names);
    free(schema->slots);
    free(schema);
}
