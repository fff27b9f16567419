/* Preloaded into a process: writes to files below THROTTLE_FOLDER take the time of a slow disk.
 *
 * All processes that share THROTTLE_STATE share one disk of THROTTLE_BYTES_PER_SECOND: each write
 * takes its place in the line, and returns when its turn is over. The bytes are counted, so that
 * whoever writes past these functions (a mapped file, say) is found out by the size of its files.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PIECE 1048576        /* so that two writers get the disk in turn */
#define OVERSLEPT 2000000    /* ns: a gap this short is a late wake-up, not an idle disk */
#define TOO_SHORT 200000     /* ns: what is not worth a sleep; it is owed to the next write */

struct disk {                /* as benchmarks/stall/throttle.py reads it */
    int64_t free_at;         /* when the disk has done all that was asked of it; ns */
    int64_t bytes;           /* how many those were */
};

static struct disk *disk;
static double ns_per_byte;
static char folder[PATH_MAX];

__attribute__((constructor)) static void open_disk(void)
{
    const char *state = getenv("THROTTLE_STATE"), *rate = getenv("THROTTLE_BYTES_PER_SECOND");
    const char *below = getenv("THROTTLE_FOLDER");
    if (!state || !rate || !below || strlen(below) >= PATH_MAX)
        return;
    int fd = open(state, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof *disk, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED)
        return;
    strcpy(folder, below);
    ns_per_byte = 1e9 / atof(rate);
    disk = mapped;
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int is_throttled(int fd)
{
    struct stat info;
    char link[64], path[PATH_MAX];
    if (!disk || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    size_t prefix = strlen(folder);
    return strncmp(path, folder, prefix) == 0 && path[prefix] == '/';
}

static void stand_in_line(int64_t bytes)
{
    int64_t cost = (int64_t)(bytes * ns_per_byte), asked = now();
    int64_t before = __atomic_load_n(&disk->free_at, __ATOMIC_SEQ_CST), start, until;
    do {
        start = asked - before > OVERSLEPT ? asked : before;
        until = start + cost;
    } while (!__atomic_compare_exchange_n(&disk->free_at, &before, until, 0, __ATOMIC_SEQ_CST,
                                          __ATOMIC_SEQ_CST));
    __atomic_add_fetch(&disk->bytes, bytes, __ATOMIC_SEQ_CST);
    if (until - now() > TOO_SHORT) {
        struct timespec t = {until / 1000000000LL, until % 1000000000LL};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
            ;
    }
}

static ssize_t take(int fd, ssize_t written)
{
    int error = errno;
    if (written > 0 && is_throttled(fd))
        for (ssize_t left = written; left > 0; left -= PIECE)
            stand_in_line(left < PIECE ? left : PIECE);
    errno = error;
    return written;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(write);
    return take(fd, real(fd, data, size));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    REAL(pwrite);
    return take(fd, real(fd, data, size, offset));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    REAL(pwrite64);
    return take(fd, real(fd, data, size, offset));
}

ssize_t writev(int fd, const struct iovec *data, int count)
{
    REAL(writev);
    return take(fd, real(fd, data, count));
}

ssize_t pwritev(int fd, const struct iovec *data, int count, off_t offset)
{
    REAL(pwritev);
    return take(fd, real(fd, data, count, offset));
}

ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t offset)
{
    REAL(pwritev64);
    return take(fd, real(fd, data, count, offset));
}

ssize_t pwritev2(int fd, const struct iovec *data, int count, off_t offset, int flags)
{
    REAL(pwritev2);
    return take(fd, real(fd, data, count, offset, flags));
}

ssize_t pwritev64v2(int fd, const struct iovec *data, int count, off64_t offset, int flags)
{
    REAL(pwritev64v2);
    return take(fd, real(fd, data, count, offset, flags));
}

ssize_t sendfile(int to, int from, off_t *offset, size_t size)
{
    REAL(sendfile);
    return take(to, real(to, from, offset, size));
}

ssize_t sendfile64(int to, int from, off64_t *offset, size_t size)
{
    REAL(sendfile64);
    return take(to, real(to, from, offset, size));
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size,
                        unsigned flags)
{
    REAL(copy_file_range);
    return take(to, real(from, from_at, to, to_at, size, flags));
}
