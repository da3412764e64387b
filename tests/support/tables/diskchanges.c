/* Ends a process before any change of the files in a folder, whatever language makes it: a library
   for LD_PRELOAD, which the tests compile.

   A change is what creates, writes, renames, links, removes or cuts a file, or makes or removes a
   folder; the middle of a write is one too. A sync is none: for who is killed, as opposed to
   a loss of power, before it is after the change before. Each change that was made is noted, as
   `what <tab> path <tab> other path <tab> size of the file`. */

#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS /* it and the next give the names below other meanings */
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILLED = 137 };

static char root[PATH_MAX]; /* ends in a slash */
static long end_at = 0;
static int notes = -1;
static atomic_long changes = 0;

/* From now on, count the changes in a folder, a path without links, and end the process at change
   number `at`; 0 is at none. */
void watch_changes(const char *folder, long at, const char *notes_path)
{
    snprintf(root, sizeof root, "%s/", folder);
    end_at = at;
    atomic_store(&changes, 0);
    notes = syscall(SYS_openat, AT_FDCWD, notes_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC,
                    0600);
}

static int is_the_last(void) { return atomic_fetch_add(&changes, 1) + 1 == end_at; }

static void begin(int is_watched)
{
    if (is_watched && is_the_last())
        _exit(KILLED);
}

static long end(int is_watched, long result, const char *what, const char *path, const char *to)
{
    char line[3 * PATH_MAX];
    struct stat found = {0};
    int error = errno;
    if (is_watched && result >= 0) {
        stat(path, &found);
        int length = snprintf(line, sizeof line, "%s\t%s\t%s\t%lld\n", what, path, to,
                              (long long)found.st_size);
        syscall(SYS_write, notes, line, (size_t)length);
    }
    errno = error;
    return result;
}

static ssize_t read_link(char *into, const char *format, int file)
{
    char link[64];
    snprintf(link, sizeof link, format, file);
    ssize_t length = readlink(link, into, PATH_MAX - 1);
    into[length < 0 ? 0 : length] = 0;
    return length < 0 ? 0 : length;
}

/* Write the path of a name in an open folder, and return whether it is watched. */
static int path_at(int folder, const char *name, char *into)
{
    if (notes < 0)
        return 0;
    if (name[0] == '/') {
        snprintf(into, PATH_MAX, "%s", name);
    } else {
        ssize_t length = read_link(
            into, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        snprintf(into + length, (size_t)(PATH_MAX - length), "/%s", name);
    }
    return strncmp(into, root, strlen(root)) == 0;
}

static int path_of(int file, char *into)
{
    if (notes < 0)
        return 0;
    read_link(into, "/proc/self/fd/%d", file);
    return strncmp(into, root, strlen(root)) == 0;
}

int openat(int folder, const char *name, int flags, ...)
{
    char path[PATH_MAX];
    va_list rest;
    va_start(rest, flags);
    unsigned mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, unsigned) : 0;
    va_end(rest);
    int is_watched = (flags & (O_CREAT | O_TRUNC)) && path_at(folder, name, path);
    begin(is_watched);
    long file = syscall(SYS_openat, folder, name, flags, mode);
    return (int)end(is_watched, file, "create", path, "");
}

int open(const char *name, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    unsigned mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, unsigned) : 0;
    va_end(rest);
    return openat(AT_FDCWD, name, flags, mode);
}

int creat(const char *name, mode_t mode) { return open(name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at)
{
    char path[PATH_MAX];
    int is_watched = path_of(file, path);
    begin(is_watched);
    if (is_watched && is_the_last()) { /* half of it is written */
        struct iovec half = {parts[0].iov_base, parts[0].iov_len / 2};
        syscall(SYS_pwritev2, file, &half, 1, (long)at, 0, 0);
        _exit(KILLED);
    }
    /* an offset of -1 is where the file is */
    long done = syscall(SYS_pwritev2, file, parts, count, (long)at, 0, 0);
    return end(is_watched, done, "write", path, "");
}

ssize_t writev(int file, const struct iovec *parts, int count)
{
    return pwritev(file, parts, count, -1);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at)
{
    struct iovec part = {(void *)bytes, count};
    return pwritev(file, &part, 1, at);
}

ssize_t write(int file, const void *bytes, size_t count) { return pwrite(file, bytes, count, -1); }

int ftruncate(int file, off_t length)
{
    char path[PATH_MAX];
    int is_watched = path_of(file, path);
    begin(is_watched);
    return (int)end(is_watched, syscall(SYS_ftruncate, file, length), "write", path, "");
}

int renameat2(int folder, const char *name, int to_folder, const char *to_name, unsigned flags)
{
    char path[PATH_MAX], to[PATH_MAX];
    int is_watched = path_at(folder, name, path) | path_at(to_folder, to_name, to);
    begin(is_watched);
    long done = syscall(SYS_renameat2, folder, name, to_folder, to_name, flags);
    return (int)end(is_watched, done, "rename", path, to);
}

int renameat(int folder, const char *name, int to_folder, const char *to_name)
{
    return renameat2(folder, name, to_folder, to_name, 0);
}

int rename(const char *name, const char *to) { return renameat(AT_FDCWD, name, AT_FDCWD, to); }

int linkat(int folder, const char *name, int to_folder, const char *to_name, int flags)
{
    char path[PATH_MAX], to[PATH_MAX];
    int is_watched = path_at(folder, name, path) | path_at(to_folder, to_name, to);
    begin(is_watched);
    long done = syscall(SYS_linkat, folder, name, to_folder, to_name, flags);
    return (int)end(is_watched, done, "link", path, to);
}

int link(const char *name, const char *to) { return linkat(AT_FDCWD, name, AT_FDCWD, to, 0); }

int unlinkat(int folder, const char *name, int flags)
{
    char path[PATH_MAX];
    int is_watched = path_at(folder, name, path);
    begin(is_watched);
    return (int)end(is_watched, syscall(SYS_unlinkat, folder, name, flags), "remove", path, "");
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }

int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int folder, const char *name, mode_t mode)
{
    char path[PATH_MAX];
    int is_watched = path_at(folder, name, path);
    begin(is_watched);
    return (int)end(is_watched, syscall(SYS_mkdirat, folder, name, mode), "folder", path, "");
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

/* The names of the same calls in programs with offsets of 64 bits, which all have here. */
#define SAME(name, as) extern __typeof__(name) as __attribute__((alias(#name)));
SAME(open, open64)
SAME(openat, openat64)
SAME(creat, creat64)
SAME(pwrite, pwrite64)
SAME(pwritev, pwritev64)
SAME(ftruncate, ftruncate64)
