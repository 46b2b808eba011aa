/* Counts what code of ours costs, by thread: system calls, allocations, and bytes that a processor copies.
 *
 * Preloaded into a process (LD_PRELOAD). $COUNTS_OF names the program or library whose calls count, by the end of
 * its path; those of everybody else (glibc, the driver, the program) pass through. The counts lie in the file
 * $COUNTS_FOLDER/PID, which is mapped, so that a test reads them while the process runs: a worker ends without
 * a chance to write anything. The file is 8 bytes with the number of rows, then rows as in `struct row`.
 *
 * Counted is what is called in glibc. Of copies that is memcpy and memmove, which the compiler calls for whatever
 * it does not know the length of; a few words of known length it copies in place. Of system calls it is every
 * one that the client makes once it has a session, and of the worker all but the fstat with which it looks, each
 * millisecond that it waits for the GPU, for what kernels have printed: that one is made in place.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROWS 256
/* Copies from here on are of somebody's data; shorter ones are records, and what describes data. */
#define LARGE 1024

struct row {
    uint64_t thread;
    /* System calls, and among them waits in which nothing came to pass: how many depends on how long the GPU takes,
     * and on who else wants the processor. */
    uint64_t calls, idle;
    uint64_t allocations, allocated;
    uint64_t copied, large, large_copied;
};

static struct table {
    _Atomic uint64_t rows;
    struct row row[ROWS];
} *table;

static const char *whose;
static uintptr_t start, end;
static __thread struct row *mine __attribute__((tls_model("initial-exec")));

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static int look(struct dl_phdr_info *object, size_t size, void *unused) {
    char program[4096];
    const char *name = object->dlpi_name;
    (void)size, (void)unused;
    if (!*name) {
        ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
        program[length < 0 ? 0 : length] = 0;
        name = program;
    }
    size_t have = strlen(name), want = strlen(whose);
    if (have < want || strcmp(name + have - want, whose))
        return 0;
    for (int n = 0; n < object->dlpi_phnum; n++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[n];
        if (part->p_type == PT_LOAD && part->p_flags & PF_X) {
            start = object->dlpi_addr + part->p_vaddr;
            __atomic_store_n(&end, start + part->p_memsz, __ATOMIC_RELEASE);
        }
    }
    return 1;
}

__attribute__((constructor)) static void begin(void) {
    char path[4096];
    const char *folder = getenv("COUNTS_FOLDER");
    whose = getenv("COUNTS_OF");
    if (!folder || !whose)
        return;
    snprintf(path, sizeof path, "%s/%d", folder, (int)getpid());
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof *table))
        return;
    void *memory = mmap(NULL, sizeof *table, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    dl_iterate_phdr(look, NULL);
    if (memory != MAP_FAILED)
        table = memory;
}

/* The row of this thread, if who called is who is counted. */
static inline struct row *row(void *caller) {
    uintptr_t from = (uintptr_t)caller;
    if (!table || from < start || from >= __atomic_load_n(&end, __ATOMIC_ACQUIRE))
        return NULL;
    if (!mine) {
        uint64_t at = table->rows++;
        mine = &table->row[at < ROWS ? at : ROWS - 1];
        mine->thread = (uint64_t)gettid();
    }
    return mine;
}

static inline void allocated(void *caller, size_t size) {
    struct row *to = row(caller);
    if (to)
        to->allocations++, to->allocated += size;
}

static inline void copied(void *caller, size_t size) {
    struct row *to = row(caller);
    if (!to)
        return;
    to->copied += size;
    if (size >= LARGE)
        to->large++, to->large_copied += size;
}

#define CALLER __builtin_return_address(0)

void *malloc(size_t size) {
    allocated(CALLER, size);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    allocated(CALLER, count * size);
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    allocated(CALLER, size);
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    allocated(CALLER, size);
    return __libc_memalign(alignment, size);
}

void *memalign(size_t alignment, size_t size) {
    allocated(CALLER, size);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **to, size_t alignment, size_t size) {
    allocated(CALLER, size);
    *to = __libc_memalign(alignment, size);
    return *to ? 0 : ENOMEM;
}

/* The compiler may not make calls of memcpy of these. */
void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    void *at = to;
    copied(CALLER, size);
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
    return to;
}

void *memmove(void *to, const void *from, size_t size) {
    void *at = to;
    copied(CALLER, size);
    if ((uintptr_t)to - (uintptr_t)from < size) {
        at = (char *)to + size - 1;
        from = (const char *)from + size - 1;
        __asm__ volatile("std\n\trep movsb\n\tcld" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
    } else {
        __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
    }
    return to;
}


/* System calls. All their arguments are words: the most that there can be are passed on. */
#define WORDS long a, long b, long c, long d, long e, long f, long g
typedef long call(WORDS);

static long made(void *caller, call *real, int is_idle(long), WORDS) {
    struct row *to = row(caller);
    long result = real(a, b, c, d, e, f, g);
    if (to) {
        to->calls++;
        if (is_idle && is_idle(result))
            to->idle++;
    }
    return result;
}

static int always(long result) {
    (void)result;
    return 1;
}

static int ran_out(long result) {
    return (int)result == 0;
}

static int timed_out(long result) {
    return (int)result == -1 && (errno == ETIME || errno == ETIMEDOUT);
}

#define CALL(name, is_idle)                                                                \
    long counted_##name(WORDS) __asm__(#name);                                             \
    long counted_##name(WORDS) {                                                           \
        static call *real;                                                                 \
        if (!real)                                                                         \
            real = (call *)dlsym(RTLD_NEXT, #name);                                        \
        return made(CALLER, real, is_idle, a, b, c, d, e, f, g);                           \
    }

CALL(syscall, timed_out)
CALL(poll, ran_out)
CALL(ppoll, ran_out)
CALL(read, NULL)
CALL(write, NULL)
CALL(writev, NULL)
CALL(send, NULL)
CALL(sendmsg, NULL)
CALL(recv, NULL)
CALL(recvmsg, NULL)
CALL(clock_nanosleep, NULL)
CALL(sched_yield, always)
CALL(ioctl, NULL)
CALL(fcntl, NULL)
CALL(fstat64, NULL)
CALL(fallocate, NULL)
CALL(mmap, NULL)
CALL(mmap64, NULL)
CALL(munmap, NULL)
CALL(mprotect, NULL)
CALL(madvise, NULL)
