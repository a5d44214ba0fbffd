/* A stand-in for the memory calls of NVIDIA's libcuda.so.1, for machines without a GPU: one GPU of 1 GiB.
 *
 * Device memory is a memfd, device addresses are addresses of the process (reserved without access, mapped by
 * MAP_FIXED), a shareable handle is the memfd itself. So what the real driver promises of virtual memory management
 * holds here, too: addresses stay when memory goes, a mapping outlives its handle, an import is the same memory. Wrong
 * arguments are answered as the driver answers them; `FAIL=name` in the environment has a call say out of memory;
 * `COPIES=path` names a file that is told of each copy and each wait. A context's stacks are 1 MiB for each 4 bytes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
enum { GRANULARITY = 2 << 20, GPU_BYTES = 1 << 30 };
static const unsigned char UUID[16] = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0, 0xbb, 0xcc, 0xdd, 0xee, 0xff};

struct location { int type, id; };
struct properties { int type, handle_types; struct location location; void *win32; unsigned char flags[8]; };
struct access { struct location location; int flags; };
struct block { int fd, handles; size_t size; };
struct uuid { unsigned char bytes[16]; };

static int initialized;
static __thread void *context;
static size_t used, stack_size = 1024;

static int called(const char *name) {
    const char *failing = getenv("FAIL");
    if (!initialized) return NOT_INITIALIZED;
    return failing && !strcmp(failing, name) ? OUT_OF_MEMORY : SUCCESS;
}
#define CALLED do { int code = called(__func__); if (code) return code; } while (0)
#define IN_CONTEXT do { CALLED; if (!context) return INVALID_CONTEXT; } while (0)

int cuInit(unsigned flags) { (void)flags; initialized = 1; return SUCCESS; }
int cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { CALLED; if (ordinal) return 101; *device = ordinal; return SUCCESS; }
int cuDeviceGetUuid(struct uuid *uuid, int device) { CALLED; (void)device; memcpy(uuid->bytes, UUID, 16); return SUCCESS; }
int cuDevicePrimaryCtxRetain(void **made, int device) { CALLED; (void)device; *made = (void *)UUID; return SUCCESS; }
int cuCtxSetCurrent(void *wanted) { CALLED; context = wanted; return SUCCESS; }
int cuMemGetInfo(size_t *free, size_t *total) { IN_CONTEXT; *free = GPU_BYTES - used; *total = GPU_BYTES; return SUCCESS; }

int cuCtxGetLimit(size_t *value, int limit) { IN_CONTEXT; if (limit) return INVALID_VALUE; *value = stack_size; return SUCCESS; }

int cuCtxSetLimit(int limit, size_t value) {
    IN_CONTEXT;
    if (limit) return INVALID_VALUE;
    used = used + (value - stack_size) / 4 * (1 << 20);
    stack_size = value;
    return SUCCESS;
}

static void tell(const char *what, size_t size) {
    const char *path = getenv("COPIES");
    FILE *copies = path ? fopen(path, "a") : NULL;
    if (!copies) return;
    fprintf(copies, "%s %zu\n", what, size);
    fclose(copies);
}

int cuMemGetAllocationGranularity(size_t *size, const struct properties *properties, int option) {
    CALLED;
    if (properties->type != 1 || properties->location.type != 1 || properties->location.id || option) return INVALID_VALUE;
    *size = GRANULARITY;
    return SUCCESS;
}

int cuMemCreate(struct block **made, size_t size, const struct properties *properties, unsigned long long flags) {
    CALLED;
    if (!size || size % GRANULARITY || properties->type != 1 || flags) return INVALID_VALUE;
    if (used + size > GPU_BYTES) return OUT_OF_MEMORY;
    *made = malloc(sizeof **made);
    **made = (struct block){memfd_create("device", MFD_CLOEXEC), 1, size};
    if (ftruncate((*made)->fd, size)) return OUT_OF_MEMORY;
    used += size;
    return SUCCESS;
}

int cuMemRelease(struct block *block) {
    CALLED;
    if (block->handles != 1) return INVALID_VALUE;
    close(block->fd);
    used -= block->size;
    free(block);
    return SUCCESS;
}

int cuMemAddressReserve(uint64_t *address, size_t size, size_t alignment, uint64_t wanted, unsigned long long flags) {
    CALLED;
    (void)alignment;
    if (!size || size % GRANULARITY || wanted || flags) return INVALID_VALUE;
    void *found = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) return OUT_OF_MEMORY;
    *address = (uint64_t)found;
    return SUCCESS;
}

int cuMemAddressFree(uint64_t address, size_t size) { CALLED; return munmap((void *)address, size) ? INVALID_VALUE : SUCCESS; }

int cuMemMap(uint64_t address, size_t size, size_t offset, struct block *block, unsigned long long flags) {
    CALLED;
    if (offset || flags || size != block->size) return INVALID_VALUE;
    void *at = mmap((void *)address, size, PROT_NONE, MAP_SHARED | MAP_FIXED, block->fd, 0);
    return at == MAP_FAILED ? INVALID_VALUE : SUCCESS;
}

int cuMemSetAccess(uint64_t address, size_t size, const struct access *access, size_t count) {
    CALLED;
    if (count != 1 || access->location.type != 1 || access->flags != 3) return INVALID_VALUE;
    return mprotect((void *)address, size, PROT_READ | PROT_WRITE) ? INVALID_VALUE : SUCCESS;
}

int cuMemUnmap(uint64_t address, size_t size) {
    CALLED;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    return mmap((void *)address, size, PROT_NONE, flags, -1, 0) == MAP_FAILED ? INVALID_VALUE : SUCCESS;
}

int cuMemExportToShareableHandle(int *fd, struct block *block, int kind, unsigned long long flags) {
    CALLED;
    if (kind != 1 || flags) return INVALID_VALUE;
    *fd = dup(block->fd);
    return SUCCESS;
}

int cuMemImportFromShareableHandle(struct block **made, void *handle, int kind) {
    CALLED;
    struct stat status;
    int fd = (int)(intptr_t)handle;
    if (kind != 1 || fstat(fd, &status)) return INVALID_VALUE;
    *made = malloc(sizeof **made);
    **made = (struct block){dup(fd), 1, status.st_size};
    used += status.st_size;
    return SUCCESS;
}

int cuMemHostRegister(void *address, size_t size, unsigned flags) { IN_CONTEXT; (void)address; return size && flags == 1 ? SUCCESS : INVALID_VALUE; }
int cuMemHostUnregister(void *address) { IN_CONTEXT; return address ? SUCCESS : INVALID_VALUE; }
int cuStreamCreate(void **stream, unsigned flags) { IN_CONTEXT; *stream = malloc(1); return flags == 1 ? SUCCESS : INVALID_VALUE; }
int cuStreamSynchronize(void *stream) { IN_CONTEXT; tell("wait", 0); return stream ? SUCCESS : INVALID_VALUE; }
int cuStreamDestroy(void *stream) { IN_CONTEXT; free(stream); return SUCCESS; }

int cuMemcpyHtoDAsync(uint64_t target, const void *source, size_t size, void *stream) {
    IN_CONTEXT;
    if (!stream) return INVALID_VALUE;
    tell("copy", size);
    memcpy((void *)target, source, size);
    return SUCCESS;
}

int cuGetProcAddress_v2(const char *symbol, void **found, int version, unsigned long long flags, int *status) {
    (void)version, (void)flags;
    Dl_info self;
    dladdr((void *)cuGetProcAddress_v2, &self);
    *found = !strcmp(symbol, "cuGetProcAddress") ? (void *)cuGetProcAddress_v2 : dlsym(dlopen(self.dli_fname, RTLD_NOW), symbol);
    if (status) *status = *found ? 0 : 1;
    return *found ? SUCCESS : NOT_FOUND;
}
