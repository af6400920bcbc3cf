/* A disk that fails when it is told to: preloaded into a daemon (LD_PRELOAD), between it and the C library.
 *
 * Only calls that change something below the directory FAULT_DIRECTORY count, each one a *step*. What is to happen to them stands
 * in the file FAULT_CONTROL, which the test maps too, so that it can be changed while the daemon runs. shim.py has the same layout.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    uint64_t loaded;        /* 1 once the library is in the process */
    uint64_t steps;         /* steps taken so far */
    uint64_t kill_at;       /* the process dies instead of this step; 0: never */
    uint64_t torn;          /* not 0: half of the write of that step is done before */
    uint64_t syncs;         /* syncs so far */
    uint64_t fail_syncs;    /* so many syncs fail with EIO */
    uint64_t failed;        /* syncs that did */
    uint64_t sync_delay_ms; /* each sync takes so much longer */
    uint64_t slowed;        /* syncs that did */
    uint64_t clock_ms;      /* the time of day is so much later, two's complement; what only counts on is as it was */
    char only[128];         /* only paths that contain this count; empty: all below the directory */
};

static struct control *control;
static char directory[PATH_MAX];

static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) {
        fprintf(stderr, "shim: the C library has no %s\n", name);
        _exit(99);
    }
    return found;
}
#define NEXT(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))next(#name)

__attribute__((constructor)) static void load(void) {
    const char *file = getenv("FAULT_CONTROL"), *below = getenv("FAULT_DIRECTORY");
    if (!file || !below) return;
    int fd = open(file, O_RDWR);
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return;
    snprintf(directory, sizeof directory, "%s", below);
    control = map;
    control->loaded = 1;
}

static int counts(const char *path) {
    size_t length = strlen(directory);
    if (strncmp(path, directory, length) || (path[length] != '/' && path[length] != 0)) return 0;
    return !control->only[0] || strstr(path + length, control->only) != NULL;
}

static int fd_counts(int fd) {
    char link[64], path[PATH_MAX];
    if (!control) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size <= 0) return 0;
    path[size] = 0;
    return counts(path);
}

static int path_counts(int at, const char *name) {
    char link[64], path[PATH_MAX];
    if (!control || !name) return 0;
    if (name[0] == '/') return counts(name);
    snprintf(link, sizeof link, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", at);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size <= 0 || (size_t)size + strlen(name) + 2 > sizeof path) return 0;
    snprintf(path + size, sizeof path - size, "/%s", name);
    return counts(path);
}

/* Whether this step is the one to die at. */
static int last_step(void) {
    uint64_t step = __atomic_add_fetch(&control->steps, 1, __ATOMIC_SEQ_CST);
    return control->kill_at && step == control->kill_at;
}

static void die(void) {
    for (;;) {
        kill(getpid(), SIGKILL);
        pause();
    }
}

static void step(void) {
    if (last_step()) die();
}

/* --- writes */

ssize_t write(int fd, const void *data, size_t size) {
    NEXT(write);
    if (fd_counts(fd) && last_step()) {
        if (control->torn) real(fd, data, size / 2);
        die();
    }
    return real(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    NEXT(pwrite64);
    if (fd_counts(fd) && last_step()) {
        if (control->torn && size >= 4096) real(fd, data, size / 2, at); /* less is one sector, which is never torn */
        die();
    }
    return real(fd, data, size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    NEXT(writev);
    if (fd_counts(fd) && last_step()) {
        if (control->torn) real(fd, parts, (count + 1) / 2);
        die();
    }
    return real(fd, parts, count);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    NEXT(pwritev64);
    if (fd_counts(fd) && last_step()) {
        if (control->torn) real(fd, parts, (count + 1) / 2, at);
        die();
    }
    return real(fd, parts, count, at);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev64(fd, parts, count, at); }

int ftruncate64(int fd, off64_t size) {
    NEXT(ftruncate64);
    if (fd_counts(fd)) step();
    return real(fd, size);
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int truncate64(const char *path, off64_t size) {
    NEXT(truncate64);
    if (path_counts(AT_FDCWD, path)) step();
    return real(path, size);
}

int truncate(const char *path, off_t size) { return truncate64(path, size); }

/* --- names */

int rename(const char *from, const char *to) {
    NEXT(rename);
    if (path_counts(AT_FDCWD, to)) step();
    return real(from, to);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    NEXT(renameat);
    if (path_counts(to_fd, to)) step();
    return real(from_fd, from, to_fd, to);
}

int unlink(const char *path) {
    NEXT(unlink);
    if (path_counts(AT_FDCWD, path)) step();
    return real(path);
}

int unlinkat(int fd, const char *path, int flags) {
    NEXT(unlinkat);
    if (path_counts(fd, path)) step();
    return real(fd, path, flags);
}

int rmdir(const char *path) {
    NEXT(rmdir);
    if (path_counts(AT_FDCWD, path)) step();
    return real(path);
}

int mkdir(const char *path, mode_t mode) {
    NEXT(mkdir);
    if (path_counts(AT_FDCWD, path)) step();
    return real(path, mode);
}

static int opened(const char *name, int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    (void)name;
    if ((flags & O_CREAT) && path_counts(AT_FDCWD, path)) step();
    return real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    NEXT(open64);
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opened("open64", real, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    NEXT(open);
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opened("open", real, path, flags, mode);
}

/* --- syncs */

/* Returns -1 with errno if this sync is to fail. */
static int sync_step(int fd) {
    if (!fd_counts(fd)) return 0;
    step();
    __atomic_add_fetch(&control->syncs, 1, __ATOMIC_SEQ_CST);
    uint64_t delay = control->sync_delay_ms;
    if (delay) {
        struct timespec rest = {(time_t)(delay / 1000), (long)(delay % 1000) * 1000000};
        __atomic_add_fetch(&control->slowed, 1, __ATOMIC_SEQ_CST);
        while (nanosleep(&rest, &rest) && errno == EINTR) continue;
    }
    uint64_t left = control->fail_syncs;
    while (left && !__atomic_compare_exchange_n(&control->fail_syncs, &left, left - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) continue;
    if (!left) return 0;
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
    errno = EIO;
    return -1;
}

int fsync(int fd) {
    NEXT(fsync);
    return sync_step(fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    NEXT(fdatasync);
    return sync_step(fd) ? -1 : real(fd);
}

/* --- the time of day */

static void later(struct timespec *at) {
    if (!control || !control->clock_ms) return;
    int64_t ms = (int64_t)control->clock_ms;
    int64_t ns = (int64_t)at->tv_nsec + ms % 1000 * 1000000;
    at->tv_sec += ms / 1000 + (ns >= 1000000000) - (ns < 0);
    at->tv_nsec = (ns + 1000000000) % 1000000000;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    NEXT(clock_gettime);
    int done = real(clock, at);
    if (!done && clock == CLOCK_REALTIME) later(at);
    return done;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    NEXT(gettimeofday);
    int done = real(at, zone);
    if (!done) {
        struct timespec exact = {at->tv_sec, at->tv_usec * 1000};
        later(&exact);
        at->tv_sec = exact.tv_sec;
        at->tv_usec = exact.tv_nsec / 1000;
    }
    return done;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
