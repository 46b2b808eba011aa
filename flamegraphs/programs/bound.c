/* A program that is bound by one thing alone: launches, or copies of 64 MiB of pinned memory both ways.
 *
 *     bound launch|bulk SECONDS
 *
 * It says "running" when it begins, and then how many operations there were. It ends with its standard input:
 * the session lives until whoever records has read the samples of both ends.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BURST 500
#define BYTES (64u << 20)

static const char *KERNEL =
    ".version 7.0\n.target sm_75\n.address_size 64\n"
    ".visible .entry nothing(.param .u64 a, .param .u64 b, .param .u32 c) { ret; }\n";

static void *driver;

static void *find(const char *name) {
    void *symbol = dlsym(driver, name);
    if (!symbol) {
        fprintf(stderr, "bound: libcuda.so.1 has no %s\n", name);
        exit(1);
    }
    return symbol;
}

static void must(int code, const char *what) {
    if (code) {
        fprintf(stderr, "bound: %s = %d\n", what, code);
        exit(1);
    }
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

int main(int count, char **words) {
    if (count != 3 || (strcmp(words[1], "launch") && strcmp(words[1], "bulk"))) {
        fprintf(stderr, "usage: bound launch|bulk SECONDS\n");
        return 2;
    }
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) {
        fprintf(stderr, "bound: %s\n", dlerror());
        return 1;
    }
    int (*init)(unsigned) = find("cuInit");
    int (*retain)(void **, int) = find("cuDevicePrimaryCtxRetain");
    int (*set)(void *) = find("cuCtxSetCurrent");
    int (*synchronize)(void) = find("cuCtxSynchronize");
    int (*allocate)(uint64_t *, size_t) = find("cuMemAlloc_v2");
    int (*pin)(void **, size_t, unsigned) = find("cuMemHostAlloc");
    int (*in)(uint64_t, const void *, size_t, void *) = find("cuMemcpyHtoDAsync_v2");
    int (*out)(void *, uint64_t, size_t, void *) = find("cuMemcpyDtoHAsync_v2");
    int (*load)(void **, const void *) = find("cuModuleLoadData");
    int (*function)(void **, void *, const char *) = find("cuModuleGetFunction");
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                  void **) = find("cuLaunchKernel");

    void *context, *module, *kernel, *host;
    uint64_t memory;
    must(init(0), "cuInit");
    must(retain(&context, 0), "cuDevicePrimaryCtxRetain");
    must(set(context), "cuCtxSetCurrent");
    must(load(&module, KERNEL), "cuModuleLoadData");
    must(function(&kernel, module, "nothing"), "cuModuleGetFunction");
    must(allocate(&memory, BYTES), "cuMemAlloc");
    must(pin(&host, BYTES, 0), "cuMemHostAlloc");
    if (!strcmp(words[1], "bulk"))
        memset(host, 1, BYTES);

    uint64_t a = memory, b = memory;
    uint32_t c = 3;
    void *parameters[] = {&a, &b, &c};
    unsigned long done = 0;
    printf("running\n");
    fflush(stdout);
    double until = now() + atof(words[2]);
    while (now() < until) {
        if (!strcmp(words[1], "launch")) {
            for (int n = 0; n < BURST; n++, done++)
                must(launch(kernel, 1, 1, 1, 32, 1, 1, 0, NULL, parameters, NULL), "cuLaunchKernel");
        } else {
            must(in(memory, host, BYTES, NULL), "cuMemcpyHtoDAsync");
            must(out(host, memory, BYTES, NULL), "cuMemcpyDtoHAsync");
            done += 2;
        }
        must(synchronize(), "cuCtxSynchronize");
    }
    printf("%lu\n", done);
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
