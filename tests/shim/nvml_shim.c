/* A libnvidia-ml.so.1 that answers from a text file, so that the real binding runs without a GPU.
 *
 * $GPUMAND_NVML_SHIM names the file, which is read again at every call; tests/shim/shimfile.py writes it and documents
 * its lines. The binding calls nvmlInitWithFlags; v2 memory info has a version word; the length of
 * a process list is queried first, with a null array and a count of 0. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <unistd.h>

#ifndef SHIM_VERSION
#define SHIM_VERSION 1
#endif

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15, VERSION_MISMATCH = 18, ARGUMENT_VERSION_MISMATCH = 25
};
enum { MAX_DEVICES = 16, MAX_PROCESSES = 256, MAX_NAMES = 64 };
enum { COMPUTE, GRAPHICS, MPS, LISTS };
typedef unsigned long long u64;

struct process { unsigned pid; long long mib; int instance; };
struct list { int error; unsigned count; struct process process[MAX_PROCESSES]; };
struct device {
    char uuid[96], name[96];
    int mig, parent, slot, instance, mig_slots, mig_error, instance_error; /* parent: index + 1 of its GPU; 0 = a GPU */
    long long total, reserved, used, free, partition; /* partition: limit that only version 2 shows; 0 = none */
    int lost, handle_error, memory_error, memory_v2_error, sensor_error;
    int utilization, temperature, temperature_limit, power, power_limit; /* %, degrees, mW; -1 = not supported */
    struct list list[LISTS];
};
struct name { unsigned pid; char path[256]; };
struct shim {
    int init_error, call_error, kernel, generation, grow, wide; /* wide: version 3 of lists has larger entries */
    int devices, names, gpus; /* devices: GPUs and instances */
    int gpu[MAX_DEVICES];
    struct device device[MAX_DEVICES];
    struct name name[MAX_NAMES];
};

static struct shim shim; /* content of the file at the last call; the binding calls from one thread */
static int initialised_generation = -1;

static int alive(unsigned pid)
{
    char path[64], text[512], *end;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    end = strrchr(text, ')');
    return end && end[1] == ' ' && end[2] != 'Z' && end[2] != 'X';
}

static void add_process(struct device *device, int list, unsigned pid, long long mib)
{
    struct list *to = &device->list[list];
    if (to->count < MAX_PROCESSES)
        to->process[to->count++] = (struct process){pid, mib, device->instance};
}

/* Adds the processes of a directory: one file per living process, named after its pid; its first number is MiB. */
static void add_directory(struct device *device, const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    while (directory && (entry = readdir(directory))) {
        char name[1024], text[256] = "";
        unsigned pid = (unsigned)atoi(entry->d_name);
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        FILE *file = pid && alive(pid) ? fopen(name, "r") : NULL;
        if (!file)
            continue;
        text[fread(text, 1, sizeof text - 1, file)] = 0;
        fclose(file);
        char *number = text;
        while (*number && !isdigit((unsigned char)*number))
            number++;
        if (*number)
            add_process(device, COMPUTE, pid, atoll(number));
    }
    if (directory)
        closedir(directory);
}

static void device_line(struct device *device, const char *key, const char *value)
{
    unsigned pid = 0;
    long long mib = 0;
    sscanf(value, "%u %lld", &pid, &mib);
    if (!strcmp(key, "name")) snprintf(device->name, sizeof device->name, "%s", value);
    else if (!strcmp(key, "total")) device->total = atoll(value);
    else if (!strcmp(key, "partition")) device->partition = atoll(value);
    else if (!strcmp(key, "reserved")) device->reserved = atoll(value);
    else if (!strcmp(key, "used")) device->used = atoll(value);
    else if (!strcmp(key, "free")) device->free = atoll(value);
    else if (!strcmp(key, "lost")) device->lost = atoi(value);
    else if (!strcmp(key, "mig")) device->mig = atoi(value);
    else if (!strcmp(key, "mig_slots")) device->mig_slots = atoi(value);
    else if (!strcmp(key, "mig_error")) device->mig_error = atoi(value);
    else if (!strcmp(key, "instance_error")) device->instance_error = atoi(value);
    else if (!strcmp(key, "instance")) device->instance = atoi(value);
    else if (!strcmp(key, "slot")) device->slot = atoi(value);
    else if (!strcmp(key, "handle_error")) device->handle_error = atoi(value);
    else if (!strcmp(key, "memory_error")) device->memory_error = atoi(value);
    else if (!strcmp(key, "sensor_error")) device->sensor_error = atoi(value);
    else if (!strcmp(key, "utilization")) device->utilization = atoi(value);
    else if (!strcmp(key, "temperature")) device->temperature = atoi(value);
    else if (!strcmp(key, "temperature_limit")) device->temperature_limit = atoi(value);
    else if (!strcmp(key, "power")) device->power = atoi(value);
    else if (!strcmp(key, "power_limit")) device->power_limit = atoi(value);
    else if (!strcmp(key, "memory_v2_error")) device->memory_v2_error = atoi(value);
    else if (!strcmp(key, "compute_error")) device->list[COMPUTE].error = atoi(value);
    else if (!strcmp(key, "graphics_error")) device->list[GRAPHICS].error = atoi(value);
    else if (!strcmp(key, "mps_error")) device->list[MPS].error = atoi(value);
    else if (!strcmp(key, "compute")) add_process(device, COMPUTE, pid, mib);
    else if (!strcmp(key, "compute_of_other")) {
        add_process(device, COMPUTE, pid, mib);
        device->list[COMPUTE].process[device->list[COMPUTE].count - 1].instance = device->instance + 1;
    }
    else if (!strcmp(key, "graphics")) add_process(device, GRAPHICS, pid, mib);
    else if (!strcmp(key, "mps")) add_process(device, MPS, pid, mib);
    else if (!strcmp(key, "processes_in")) add_directory(device, value);
}

static void hang_while(const char *path)
{
    char entered[1100];
    snprintf(entered, sizeof entered, "%s.entered", path);
    FILE *file = access(path, F_OK) == 0 ? fopen(entered, "w") : NULL;
    if (file)
        fclose(file);
    while (access(path, F_OK) == 0)
        usleep(5000);
}

static void without_sensors(struct device *device)
{
    device->utilization = device->temperature = device->temperature_limit = device->power = device->power_limit = -1;
}

static void shim_line(const char *call, const char *key, const char *value)
{
    char where[64] = "", path[1024] = "";
    if (!strcmp(key, "init_error")) shim.init_error = atoi(value);
    else if (!strcmp(key, "call_error")) shim.call_error = atoi(value);
    else if (!strcmp(key, "kernel")) shim.kernel = atoi(value);
    else if (!strcmp(key, "generation")) shim.generation = atoi(value);
    else if (!strcmp(key, "wide_lists")) shim.wide = atoi(value);
    else if (!strcmp(key, "grow")) shim.grow = atoi(value);
    else if (!strcmp(key, "hang") && sscanf(value, "%63s %1023[^\n]", where, path) == 2) {
        if (strstr(call, where) || !strcmp(where, "any"))
            hang_while(path);
    } else if (!strcmp(key, "process_name") && shim.names < MAX_NAMES) {
        struct name *name = &shim.name[shim.names++];
        sscanf(value, "%u %255[^\n]", &name->pid, name->path);
    } else if (!strcmp(key, "device") && shim.devices < MAX_DEVICES) {
        struct device *device = &shim.device[shim.devices++];
        snprintf(device->uuid, sizeof device->uuid, "%s", value);
        device->used = device->free = -1;
        device->mig = -1;
        device->instance = -1;
        without_sensors(device);
        shim.gpu[shim.gpus++] = shim.devices - 1;
    } else if (!strcmp(key, "mig_device") && shim.gpus && shim.devices < MAX_DEVICES) {
        struct device *device = &shim.device[shim.devices++];
        snprintf(device->uuid, sizeof device->uuid, "%s", value);
        device->used = device->free = -1;
        device->mig = -1;
        device->parent = shim.gpu[shim.gpus - 1] + 1;
        without_sensors(device);
    } else if (shim.devices)
        device_line(&shim.device[shim.devices - 1], key, value);
}

/* Appends the name of a call to the file named by $GPUMAND_NVML_SHIM_CALLS, so that a test can count driver calls. */
static void log_call(const char *call)
{
    const char *log = getenv("GPUMAND_NVML_SHIM_CALLS");
    FILE *file = log ? fopen(log, "a") : NULL;
    if (file) {
        fprintf(file, "%s\n", call);
        fclose(file);
    }
}

static int read_shim(const char *call)
{
    char line[2048], key[64], value[1900];
    const char *path = getenv("GPUMAND_NVML_SHIM");
    FILE *file = path ? fopen(path, "r") : NULL;
    log_call(call);
    if (!file)
        return DRIVER_NOT_LOADED;
    memset(&shim, 0, sizeof shim);
    shim.kernel = SHIM_VERSION;
    while (fgets(line, sizeof line, file))
        if (*line != '#' && sscanf(line, "%63s %1899[^\n]", key, value) == 2)
            shim_line(call, key, value);
    fclose(file);
    return OK;
}

/* Starts any call except init. */
static int begin(const char *call)
{
    int error = read_shim(call);
    if (error)
        return error;
    if (initialised_generation != shim.generation)
        return UNINITIALIZED; /* not initialised, or the driver was reloaded since then */
    return shim.call_error;
}

/* Starts a call for one device. */
static int begin_device(const char *call, void *handle, struct device **device)
{
    int error = begin(call);
    size_t index = (size_t)handle - 1;
    if (error)
        return error;
    if (index >= (size_t)shim.devices)
        return INVALID_ARGUMENT;
    *device = &shim.device[index];
    return (*device)->lost ? GPU_IS_LOST : OK;
}

static int copy(char *to, unsigned size, const char *from)
{
    if (strlen(from) + 1 > size)
        return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return OK;
}

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    int error = read_shim("init");
    if (error || shim.init_error)
        return error ? error : shim.init_error;
    if (shim.kernel != SHIM_VERSION)
        return VERSION_MISMATCH;
    initialised_generation = shim.generation;
    return OK;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void)
{
    int error = initialised_generation < 0 ? UNINITIALIZED : OK;
    const char *log = getenv("GPUMAND_NVML_SHIM_SHUTDOWNS"); /* a file to which each shutdown appends one byte */
    FILE *file = log && !error ? fopen(log, "a") : NULL;
    if (file) {
        fputc('.', file);
        fclose(file);
    }
    initialised_generation = -1;
    return error;
}

const char *nvmlErrorString(int code)
{
    static char text[64];
    snprintf(text, sizeof text, "shim error %d", code);
    return text;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    int error = begin("count");
    *count = error ? 0 : (unsigned)shim.gpus;
    return error;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle)
{
    struct device *device;
    int error = begin("handle");
    if (!error && index >= (unsigned)shim.gpus)
        error = INVALID_ARGUMENT;
    if (error)
        return error;
    *handle = (void *)((size_t)shim.gpu[index] + 1);
    device = &shim.device[shim.gpu[index]];
    return device->lost ? GPU_IS_LOST : device->handle_error;
}

/* mig: -1 = not supported, 0 = disabled, 1 = enabled */
int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending)
{
    struct device *device;
    int error = begin_device("mig_mode", handle, &device);
    if (error || device->mig_error)
        return error ? error : device->mig_error;
    if (device->mig < 0)
        return NOT_SUPPORTED;
    *current = *pending = (unsigned)device->mig;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count)
{
    struct device *device;
    int error = begin_device("mig_count", handle, &device);
    *count = error || device->mig < 0 ? 0 : (unsigned)device->mig_slots;
    return error;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *gpu, unsigned slot, void **handle)
{
    struct device *parent;
    int error = begin_device("mig_handle", gpu, &parent);
    for (int i = 0; !error && i < shim.devices; i++)
        if (shim.device[i].parent == (int)(size_t)gpu && shim.device[i].slot == (int)slot) {
            *handle = (void *)((size_t)i + 1);
            return shim.device[i].handle_error;
        }
    return error ? error : NOT_FOUND;
}

int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *number)
{
    struct device *device;
    int error = begin_device("instance", handle, &device);
    if (error || device->instance_error)
        return error ? error : device->instance_error;
    *number = (unsigned)device->instance;
    return device->parent ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned size)
{
    struct device *device;
    int error = begin_device("uuid", handle, &device);
    return error ? error : copy(text, size, device->uuid);
}

int nvmlDeviceGetName(void *handle, char *text, unsigned size)
{
    struct device *device;
    int error = begin_device("name", handle, &device);
    return error ? error : copy(text, size, device->name);
}

/* Sums up the memory of all processes; a process in several lists counts once, with its largest value. */
static long long held(const struct device *device)
{
    long long sum = 0;
    for (int list = 0; list < LISTS; list++)
        for (unsigned i = 0; i < device->list[list].count; i++) {
            struct process one = device->list[list].process[i];
            int repeated = 0;
            for (int before = 0; before < list; before++)
                for (unsigned j = 0; j < device->list[before].count; j++)
                    repeated |= device->list[before].process[j].pid == one.pid;
            if (!repeated && one.mib > 0)
                sum += one.mib;
        }
    return sum;
}

static u64 bytes(long long mib) { return (u64)mib << 20; }

static void memory_sizes(const struct device *device, u64 *total, u64 *reserved, u64 *free, u64 *used)
{
    long long used_mib = device->used >= 0 ? device->used : held(device);
    long long free_mib = device->free >= 0 ? device->free : device->total - device->reserved - used_mib;
    *total = bytes(device->total);
    *reserved = bytes(device->reserved);
    *free = bytes(free_mib > 0 ? free_mib : 0);
    *used = bytes(used_mib);
}

struct memory { u64 total, free, used; };
struct memory_v2 { unsigned version; u64 total, reserved, free, used; };

int nvmlDeviceGetMemoryInfo(void *handle, struct memory *memory)
{
    struct device *device;
    u64 reserved;
    int error = begin_device("memory", handle, &device);
    if (error || device->memory_error)
        return error ? error : device->memory_error;
    memory_sizes(device, &memory->total, &reserved, &memory->free, &memory->used);
    memory->used += reserved; /* v1 includes the driver's reserve in the used memory */
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(void *handle, struct memory_v2 *memory)
{
    struct device *device;
    int error = begin_device("memory", handle, &device);
    if (error || device->memory_error || device->memory_v2_error)
        return error ? error : device->memory_error ? device->memory_error : device->memory_v2_error;
    if (memory->version != 0x02000028)
        return ARGUMENT_VERSION_MISMATCH;
    memory_sizes(device, &memory->total, &memory->reserved, &memory->free, &memory->used);
    if (device->partition) { /* as the change log of R615 says; how exactly is not known */
        memory->total = bytes(device->partition);
        memory->used = memory->used < memory->total ? memory->used : memory->total;
        memory->free = memory->total - memory->used;
    }
    return OK;
}

struct utilization { unsigned gpu, memory; };

int nvmlDeviceGetUtilizationRates(void *handle, struct utilization *utilization)
{
    struct device *device;
    int error = begin_device("utilization", handle, &device);
    if (error || device->sensor_error)
        return error ? error : device->sensor_error;
    utilization->gpu = utilization->memory = (unsigned)device->utilization;
    return device->utilization < 0 ? NOT_SUPPORTED : OK;
}

/* Starts a call for one device and returns the value of one of its sensors. */
#define SENSOR(name, field) \
    struct device *device; \
    int error = begin_device(name, handle, &device); \
    if (error || device->sensor_error) \
        return error ? error : device->sensor_error; \
    *value = (unsigned)device->field; \
    return device->field < 0 ? NOT_SUPPORTED : OK;

int nvmlDeviceGetTemperature(void *handle, unsigned sensor, unsigned *value)
{
    (void)sensor;
    SENSOR("temperature", temperature)
}

int nvmlDeviceGetTemperatureThreshold(void *handle, unsigned threshold, unsigned *value)
{
    if (threshold != 1) /* the temperature at which the driver slows the clocks down */
        return INVALID_ARGUMENT;
    SENSOR("temperature_limit", temperature_limit)
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned *value) { SENSOR("power", power) }
int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *value) { SENSOR("power_limit", power_limit) }

struct process_info { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; };
struct wide_info { struct process_info info; u64 protected; };

static int fill(void *handle, unsigned *count, struct process_info *to, int which, int wide)
{
    static unsigned asked;
    struct device *device;
    unsigned room = *count;
    int error = begin_device("list", handle, &device);
    if (error || device->list[which].error)
        return error ? error : device->list[which].error;
    struct list *list = &device->list[which];
    *count = list->count;
    if (to && shim.grow && asked++ < (unsigned)shim.grow)
        return INSUFFICIENT_SIZE; /* simulates a list that has outgrown the array */
    if (room < list->count)
        return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < list->count; i++) {
        long long mib = list->process[i].mib;
        struct process_info one = {list->process[i].pid, mib < 0 ? (u64)-1 : bytes(mib), (unsigned)list->process[i].instance, -1u};
        if (wide)
            ((struct wide_info *)to)[i] = (struct wide_info){one, 0};
        else
            to[i] = one;
    }
    return OK;
}

#define LIST(function, which, wide) \
    int function(void *handle, unsigned *count, struct process_info *to) { return fill(handle, count, to, which, wide); }
LIST(nvmlDeviceGetComputeRunningProcesses_v3, COMPUTE, shim.wide)
LIST(nvmlDeviceGetComputeRunningProcesses_v2, COMPUTE, 0)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, GRAPHICS, shim.wide)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, GRAPHICS, 0)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, MPS, shim.wide)

int nvmlSystemGetProcessName(unsigned pid, char *text, unsigned size)
{
    int error = begin("process_name");
    for (int i = 0; !error && i < shim.names; i++)
        if (shim.name[i].pid == pid)
            return copy(text, size, shim.name[i].path);
    return error ? error : NOT_FOUND;
}

int nvmlSystemGetDriverVersion(char *text, unsigned size)
{
    int error = begin("driver");
    return error ? error : copy(text, size, SHIM_VERSION == 1 ? "580.1" : "580.2");
}
