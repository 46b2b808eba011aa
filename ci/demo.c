/* A program on NVIDIA's CUDA runtime, as anybody writes one: pinned memory, two streams, events, a kernel.
 *
 * Part of ci/demo, which compiles it against libcudart 12 and libcudart 13. It computes 3 x + y in pieces that are
 * copied, computed and copied back by two streams in turn, compares every element, and prints the runtime's version.
 * The kernel is PTX, because there is no nvcc here to embed it. */

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(call)                                                                                       \
    do {                                                                                                  \
        cudaError_t status = (call);                                                                      \
        if (status != cudaSuccess) {                                                                      \
            fprintf(stderr, "%s: %s (%d)\n", #call, cudaGetErrorString(status), (int)status);             \
            exit(1);                                                                                      \
        }                                                                                                 \
    } while (0)

/* y[i] = a * x[i] + y[i] for i < n. */
static const char kernel_ptx[] =
    ".version 8.0\n"
    ".target sm_80\n"
    ".address_size 64\n"
    ".visible .entry axpy(.param .f32 a, .param .u64 x, .param .u64 y, .param .u32 n)\n"
    "{\n"
    "    .reg .pred %out;\n"
    "    .reg .f32 %f<4>;\n"
    "    .reg .b32 %r<6>;\n"
    "    .reg .b64 %rd<6>;\n"
    "    mov.u32 %r1, %ctaid.x;\n"
    "    mov.u32 %r2, %ntid.x;\n"
    "    mov.u32 %r3, %tid.x;\n"
    "    mad.lo.s32 %r4, %r1, %r2, %r3;\n"
    "    ld.param.u32 %r5, [n];\n"
    "    setp.ge.u32 %out, %r4, %r5;\n"
    "    @%out ret;\n"
    "    ld.param.f32 %f1, [a];\n"
    "    ld.param.u64 %rd1, [x];\n"
    "    ld.param.u64 %rd2, [y];\n"
    "    mul.wide.u32 %rd3, %r4, 4;\n"
    "    add.s64 %rd4, %rd1, %rd3;\n"
    "    add.s64 %rd5, %rd2, %rd3;\n"
    "    ld.global.f32 %f2, [%rd4];\n"
    "    ld.global.f32 %f3, [%rd5];\n"
    "    fma.rn.f32 %f3, %f1, %f2, %f3;\n"
    "    st.global.f32 [%rd5], %f3;\n"
    "    ret;\n"
    "}\n";

enum { PIECES = 8, PIECE = 1 << 15, COUNT = PIECES * PIECE, THREADS = 256 };

int main(void)
{
    int runtime = 0, driver = 0, devices = 0;
    CHECK(cudaRuntimeGetVersion(&runtime));
    CHECK(cudaDriverGetVersion(&driver));
    CHECK(cudaGetDeviceCount(&devices));
    struct cudaDeviceProp properties;
    CHECK(cudaGetDeviceProperties(&properties, 0));
    printf("cudart %d.%d on driver %d.%d: %d devices, the first: %s, %zu MiB\n", runtime / 1000,
           runtime % 1000 / 10, driver / 1000, driver % 1000 / 10, devices, properties.name,
           properties.totalGlobalMem >> 20);

    cudaLibrary_t library;
    cudaKernel_t kernel;
    CHECK(cudaLibraryLoadData(&library, kernel_ptx, NULL, NULL, 0, NULL, NULL, 0));
    CHECK(cudaLibraryGetKernel(&kernel, library, "axpy"));

    float *x, *y, *device_x, *device_y;
    CHECK(cudaMallocHost((void **)&x, COUNT * sizeof *x));
    CHECK(cudaMallocHost((void **)&y, COUNT * sizeof *y));
    CHECK(cudaMalloc((void **)&device_x, COUNT * sizeof *x));
    CHECK(cudaMalloc((void **)&device_y, COUNT * sizeof *y));
    for (int i = 0; i < COUNT; i++) {
        x[i] = (float)(i % 1000);
        y[i] = (float)(i % 77);
    }

    cudaStream_t streams[2];
    cudaEvent_t begin, end, joined;
    CHECK(cudaStreamCreate(&streams[0]));
    CHECK(cudaStreamCreate(&streams[1]));
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    CHECK(cudaEventCreateWithFlags(&joined, cudaEventDisableTiming));

    CHECK(cudaEventRecord(begin, streams[0]));
    float a = 3;
    unsigned n = PIECE;
    for (int piece = 0; piece < PIECES; piece++) {
        cudaStream_t stream = streams[piece % 2];
        size_t at = (size_t)piece * PIECE, bytes = PIECE * sizeof *x;
        float *piece_x = device_x + at, *piece_y = device_y + at;
        void *arguments[] = {&a, &piece_x, &piece_y, &n};
        CHECK(cudaMemcpyAsync(piece_x, x + at, bytes, cudaMemcpyHostToDevice, stream));
        CHECK(cudaMemcpyAsync(piece_y, y + at, bytes, cudaMemcpyHostToDevice, stream));
        dim3 grid = {PIECE / THREADS, 1, 1}, block = {THREADS, 1, 1};
        CHECK(cudaLaunchKernel((const void *)kernel, grid, block, arguments, 0, stream));
        CHECK(cudaMemcpyAsync(y + at, piece_y, bytes, cudaMemcpyDeviceToHost, stream));
    }
    CHECK(cudaEventRecord(joined, streams[1]));
    CHECK(cudaStreamWaitEvent(streams[0], joined, 0));
    CHECK(cudaEventRecord(end, streams[0]));
    CHECK(cudaEventSynchronize(end));

    for (int i = 0; i < COUNT; i++) {
        float expected = 3 * (float)(i % 1000) + (float)(i % 77);
        if (y[i] != expected) {
            fprintf(stderr, "element %d is %f, not %f\n", i, y[i], expected);
            return 1;
        }
    }
    float milliseconds = 0;
    CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    printf("axpy of %d elements in %d pieces on 2 streams: every element is right, %.1f ms on the device\n",
           COUNT, PIECES, milliseconds);

    CHECK(cudaFree(device_x));
    CHECK(cudaFree(device_y));
    CHECK(cudaFreeHost(x));
    CHECK(cudaFreeHost(y));
    CHECK(cudaLibraryUnload(library));
    CHECK(cudaStreamDestroy(streams[0]));
    CHECK(cudaStreamDestroy(streams[1]));
    return 0;
}
