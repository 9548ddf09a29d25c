/* Loaded before the C library (LD_PRELOAD): makes one change of a file system fail, or all from one on.
   Nothing happens before fault_arm, and only what lies below its folder counts. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static long first, steps;
static int failure, lasting;

void fault_arm(const char *below, long number, int error, int stays) {
    first = number;
    failure = error;
    lasting = stays;
    steps = 0;
    strncpy(folder, below, sizeof folder - 1);
}

long fault_steps(void) { return __atomic_load_n(&steps, __ATOMIC_SEQ_CST); }

static int fails(const char *path) {
    if (!folder[0] || !path || strncmp(path, folder, strlen(folder))) return 0;
    long step = __atomic_add_fetch(&steps, 1, __ATOMIC_SEQ_CST);
    if (!first || step < first || (step > first && !lasting)) return 0;
    errno = failure;
    return 1;
}

static int fails_fd(int descriptor) {
    char link[64], path[4096];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return fails(path);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    return fails_fd(fd) ? -1 : real(fd, data, size);
}
ssize_t writev(int fd, const struct iovec *data, int count) {
    REAL(writev);
    return fails_fd(fd) ? -1 : real(fd, data, count);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    return fails_fd(fd) ? -1 : real(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    return fails_fd(fd) ? -1 : real(fd, data, size, at);
}
ssize_t copy_file_range(int from, off64_t *begin, int to, off64_t *at, size_t size, unsigned flags) {
    REAL(copy_file_range);
    return fails_fd(to) ? -1 : real(from, begin, to, at, size, flags);
}
int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    return fails_fd(fd) ? -1 : real(fd, size);
}
int fsync(int fd) {
    REAL(fsync);
    return fails_fd(fd) ? -1 : real(fd);
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return fails(path) ? -1 : real(path, mode);
}
/* On a full disk a rename succeeds: only lasting failures are those of a full disk. */
int rename(const char *from, const char *to) {
    REAL(rename);
    return !lasting && fails(to) ? -1 : real(from, to);
}
int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    REAL(renameat2);
    return !lasting && fails(to) ? -1 : real(from_at, from, to_at, to, flags);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list arguments; \
        va_start(arguments, flags); \
        int mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(arguments, int) : 0; \
        va_end(arguments); \
        return (flags & O_CREAT) && fails(path) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
FILE *fopen64(const char *path, const char *mode) {
    REAL(fopen64);
    return strchr(mode, 'r') == NULL && fails(path) ? NULL : real(path, mode);
}
