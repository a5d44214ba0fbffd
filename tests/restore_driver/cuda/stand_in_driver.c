/* A stand-in for NVIDIA's libcuda.so.1 and libnvidia-ml.so.1, for machines without a GPU.
 *
 * It holds to the same contract as the real driver (test_contract.py runs against both) and keeps its state in files
 * beside itself, so that a test can read what happened and say what shall go wrong:
 *
 *   processes/PID            one line: running | locked | checkpointed | failed; no file: not a CUDA process
 *   faults/CALL.PID          a number: the error code that the call answers; or `hang`
 *   calls                    one line a call, with its arguments
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <dirent.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, OPERATING_SYSTEM = 304, ILLEGAL_STATE = 401, NOT_FOUND = 500, NOT_READY = 600 };
enum { RUNNING, LOCKED, CHECKPOINTED, FAILED };
enum { GPU_BYTES = 1 << 30, PROCESS_BYTES = 64 << 20 };
static const char *const NAMES[] = {"running", "locked", "checkpointed", "failed"};
static const char *const GPUS[] = {"GPU-00000000-0000-0000-0000-000000000001", "GPU-00000000-0000-0000-0000-000000000002"};
static int initialized;

static const char *at(char *path, const char *format, ...) {
    Dl_info self;
    dladdr((void *)at, &self);
    snprintf(path, PATH_MAX, "%s", self.dli_fname);
    char *end = strrchr(path, '/') + 1;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(end, PATH_MAX - (end - path), format, arguments);
    va_end(arguments);
    return path;
}

static int read_word(const char *path, char *word) {
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    int found = fscanf(file, "%31s", word) == 1;
    fclose(file);
    return found;
}

static int state_of(int pid) {
    char path[PATH_MAX], word[32];
    if (!read_word(at(path, "processes/%d", pid), word)) return -1;
    for (int state = RUNNING; state <= FAILED; state++)
        if (!strcmp(word, NAMES[state])) return state;
    return -1;
}

/* Of a process without CUDA, and of one that is not there, as driver 580 answers. */
static int of_none(int pid) { return kill(pid, 0) && errno == ESRCH ? OPERATING_SYSTEM : INVALID_VALUE; }

static void set_state(int pid, int state) {
    char path[PATH_MAX];
    FILE *file = fopen(at(path, "processes/%d", pid), "w");
    fprintf(file, "%s\n", NAMES[state]);
    fclose(file);
}

static int begin(const char *call, int pid, const char *arguments) {
    char path[PATH_MAX], word[32], line[512];
    FILE *calls = fopen(at(path, "calls"), "a");
    int length = snprintf(line, sizeof line, "%s %d%s%s\n", call, pid, *arguments ? " " : "", arguments);
    fwrite(line, 1, length, calls);
    fclose(calls);
    if (!initialized) return NOT_INITIALIZED;
    if (!read_word(at(path, "faults/%s.%d", call, pid), word)) return SUCCESS;
    if (!strcmp(word, "hang")) for (;;) pause();
    return atoi(word);
}

static int move(const char *call, int pid, const char *arguments, int from, int to) {
    int code = begin(call, pid, arguments);
    if (code) return code;
    int state = state_of(pid);
    if (state < 0) return INVALID_VALUE;
    if (state != from) return ILLEGAL_STATE;
    set_state(pid, to);
    return SUCCESS;
}

int cuInit(unsigned flags) {
    char path[PATH_MAX], word[32];
    (void)flags;
    if (read_word(at(path, "faults/init"), word)) {
        if (!strcmp(word, "hang")) for (;;) pause();
        return atoi(word);
    }
    initialized = 1;
    return SUCCESS;
}

int cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }

int cuCheckpointProcessGetState(int pid, int *state) {
    int code = begin("state", pid, "");
    if (code) return code;
    int found = state_of(pid);
    if (found < 0) return of_none(pid);
    *state = found;
    return SUCCESS;
}

int cuCheckpointProcessGetRestoreThreadId(int pid, int *tid) {
    if (!initialized) return NOT_INITIALIZED;
    if (state_of(pid) < 0) return of_none(pid);
    *tid = pid;
    return SUCCESS;
}

int cuCheckpointProcessLock(int pid, unsigned *timeout_ms) {
    char arguments[64] = "";
    if (timeout_ms) snprintf(arguments, sizeof arguments, "timeout_ms=%u", *timeout_ms);
    return move("lock", pid, arguments, RUNNING, LOCKED);
}

int cuCheckpointProcessCheckpoint(int pid, void *none) {
    (void)none;
    return move("checkpoint", pid, "", LOCKED, CHECKPOINTED);
}

struct restore_args { const unsigned char *pairs; unsigned count; };

int cuCheckpointProcessRestore(int pid, struct restore_args *restore) {
    char arguments[400] = "";
    for (unsigned i = 0; restore && i < restore->count; i++) {
        if (i) strcat(arguments, ",");
        for (int byte = 0; byte < 32; byte++)
            sprintf(arguments + strlen(arguments), "%s%02x", byte == 16 ? ">" : "", restore->pairs[32 * i + byte]);
    }
    return move("restore", pid, arguments, CHECKPOINTED, LOCKED);
}

int cuCheckpointProcessUnlock(int pid, void *none) {
    (void)none;
    return move("unlock", pid, "", LOCKED, RUNNING);
}

int cuGetProcAddress_v2(const char *symbol, void **found, int version, unsigned long long flags, int *status) {
    (void)version, (void)flags;
    char path[PATH_MAX];
    Dl_info self;
    dladdr((void *)at, &self);
    snprintf(path, sizeof path, "%s", self.dli_fname);
    *found = !strcmp(symbol, "cuGetProcAddress") ? (void *)cuGetProcAddress_v2 : dlsym(dlopen(path, RTLD_NOW), symbol);
    if (status) *status = *found ? 0 : 1;
    return *found ? SUCCESS : NOT_FOUND;
}

/* NVML: two GPUs of 1 GiB; every CUDA process that is not checkpointed holds 64 MiB of the first. */

struct memory { unsigned long long total, free, used; };
struct process { unsigned pid; unsigned long long used; unsigned instances[2]; };

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(index + 1UL); return 0; }
const char *nvmlErrorString(int code) { (void)code; return "stand-in"; }

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    snprintf(uuid, length, "%s", GPUS[(unsigned long)device - 1]);
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *found) {
    char path[PATH_MAX];
    unsigned room = *count;
    *count = 0;
    if ((unsigned long)device != 1) return 0;
    DIR *directory = opendir(at(path, "processes"));
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        int pid = atoi(entry->d_name);
        if (pid <= 0 || state_of(pid) == CHECKPOINTED) continue;
        if (*count < room) found[*count] = (struct process){.pid = pid, .used = PROCESS_BYTES};
        ++*count;
    }
    if (directory) closedir(directory);
    return *count > room ? 7 : 0;
}

int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
    struct process found[256];
    unsigned count = 256;
    nvmlDeviceGetComputeRunningProcesses_v3(device, &count, found);
    memory->total = GPU_BYTES;
    memory->used = (unsigned long long)count * PROCESS_BYTES;
    memory->free = memory->total - memory->used;
    return 0;
}
