/* A training step as the driver sees it, the same each time: for counting what a step costs.
 *
 *     step       reads lines from standard input: "step N" or "launch N", and says "done" after each
 *
 * Standard output has one line for each. Everything that is copied is checked at the end: what is counted was done.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAUNCHES 300
#define BATCH (1u << 20)
#define LABELS (64u << 10)
#define OUTPUT (256u << 10)

static const char *KERNEL =
    ".version 7.0\n.target sm_75\n.address_size 64\n"
    ".visible .entry nothing(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d, .param .u32 e) { ret; }\n";

static void *driver;

static void *find(const char *name) {
    void *symbol = dlsym(driver, name);
    if (!symbol) {
        fprintf(stderr, "step: libcuda.so.1 has no %s\n", name);
        exit(1);
    }
    return symbol;
}

static void must(int code, const char *what) {
    if (code) {
        fprintf(stderr, "step: %s = %d\n", what, code);
        exit(1);
    }
}

static int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                     void **);
static int (*in)(uint64_t, const void *, size_t, void *);
static int (*out)(void *, uint64_t, size_t, void *);
static int (*out_now)(void *, uint64_t, size_t);
static int (*within)(uint64_t, uint64_t, size_t, void *);
static int (*set)(uint64_t, unsigned, size_t, void *);
static int (*record)(void *, void *);
static int (*query)(void *);
static int (*await)(void *, void *, unsigned);
static int (*finish)(void *);

static void *kernel, *stream, *side, *fresh, *used;
static uint64_t batch, labels, output, loss;
static unsigned char *next_batch, *result, *some_labels;

static void launches(unsigned count) {
    uint64_t a = batch, b = labels, c = output, d = loss;
    uint32_t e = 3;
    void *parameters[] = {&a, &b, &c, &d, &e};
    for (unsigned n = 0; n < count; n++)
        must(launch(kernel, 1, 1, 1, 32, 1, 1, 0, stream, parameters, NULL), "cuLaunchKernel");
}

static void step(unsigned number) {
    unsigned read = 0;
    /* The next batch goes over on a stream of its own, as a data loader does it, once the last is used up. */
    must(await(side, used, 0), "cuStreamWaitEvent");
    must(in(batch, next_batch, BATCH, side), "cuMemcpyHtoDAsync");
    must(record(fresh, side), "cuEventRecord");
    must(await(stream, fresh, 0), "cuStreamWaitEvent");
    memset(some_labels, (int)number, LABELS);
    must(in(labels, some_labels, LABELS, stream), "cuMemcpyHtoDAsync");
    must(set(loss, number, 1, stream), "cuMemsetD32Async");
    launches(LAUNCHES);
    must(within(output, batch, OUTPUT - LABELS, stream), "cuMemcpyDtoDAsync");
    must(within(output + OUTPUT - LABELS, labels, LABELS, stream), "cuMemcpyDtoDAsync");
    must(out(result, output, OUTPUT, stream), "cuMemcpyDtoHAsync");
    must(record(used, stream), "cuEventRecord");
    for (int n = 0; n < 4; n++)
        query(used);
    must(out_now(&read, loss, sizeof read), "cuMemcpyDtoH");
    must(finish(stream), "cuStreamSynchronize");
    if (read != number || result[0] != 7 || result[OUTPUT - 1] != (unsigned char)number) {
        fprintf(stderr, "step: %u came back for %u\n", read, number);
        exit(1);
    }
}

int main(void) {
    char word[16];
    unsigned count, number = 0;
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) {
        fprintf(stderr, "step: %s\n", dlerror());
        return 1;
    }
    int (*init)(unsigned) = find("cuInit");
    int (*retain)(void **, int) = find("cuDevicePrimaryCtxRetain");
    int (*current)(void *) = find("cuCtxSetCurrent");
    int (*allocate)(uint64_t *, size_t) = find("cuMemAlloc_v2");
    int (*pin)(void **, size_t, unsigned) = find("cuMemHostAlloc");
    int (*load)(void **, const void *) = find("cuModuleLoadData");
    int (*function)(void **, void *, const char *) = find("cuModuleGetFunction");
    int (*make_stream)(void **, unsigned) = find("cuStreamCreate");
    int (*make_event)(void **, unsigned) = find("cuEventCreate");
    launch = find("cuLaunchKernel");
    in = find("cuMemcpyHtoDAsync_v2");
    out = find("cuMemcpyDtoHAsync_v2");
    out_now = find("cuMemcpyDtoH_v2");
    within = find("cuMemcpyDtoDAsync_v2");
    set = find("cuMemsetD32Async");
    record = find("cuEventRecord");
    query = find("cuEventQuery");
    await = find("cuStreamWaitEvent");
    finish = find("cuStreamSynchronize");

    void *context, *module;
    must(init(0), "cuInit");
    must(retain(&context, 0), "cuDevicePrimaryCtxRetain");
    must(current(context), "cuCtxSetCurrent");
    must(load(&module, KERNEL), "cuModuleLoadData");
    must(function(&kernel, module, "nothing"), "cuModuleGetFunction");
    must(make_stream(&stream, 0), "cuStreamCreate");
    must(make_stream(&side, 1), "cuStreamCreate");
    must(make_event(&fresh, 2), "cuEventCreate");
    must(make_event(&used, 2), "cuEventCreate");
    must(allocate(&batch, BATCH), "cuMemAlloc");
    must(allocate(&labels, LABELS), "cuMemAlloc");
    must(allocate(&output, OUTPUT), "cuMemAlloc");
    must(allocate(&loss, 4), "cuMemAlloc");
    must(pin((void **)&next_batch, BATCH, 0), "cuMemHostAlloc");
    must(pin((void **)&result, OUTPUT, 0), "cuMemHostAlloc");
    some_labels = malloc(LABELS);
    memset(next_batch, 7, BATCH);

    while (scanf("%15s %u", word, &count) == 2) {
        if (!strcmp(word, "launch"))
            launches(count);
        for (unsigned n = 0; n < count && !strcmp(word, "step"); n++)
            step(++number);
        must(finish(stream), "cuStreamSynchronize");
        printf("done\n");
        fflush(stdout);
    }
    return 0;
}
