/*
 * A driver library without a driver. Programs load it as libnvidia-ml.so.1 and
 * it answers what a text file says, read anew at every call:
 *
 *   FAKE_CARDS names the file; its lines are "key value".
 *
 *   init CODE                 what opening gives
 *   hang 1                    calls wait until the line is gone
 *   cards N                   how many there are; card i has index i
 *   i.uuid TEXT   i.name TEXT
 *   i.total BYTES  i.reserved BYTES  i.used BYTES
 *   i.memory CODE             what reading the memory gives
 *   i.handle CODE             what looking for the card gives
 *   i.busy PERCENT            share of the time in which it computes; without the line: not supported
 *   i.mig 1                   it is divided
 *   i.compute PID=BYTES,...   BYTES of -1: not available
 *   i.graphics PID=BYTES,...
 *   i.compute.code CODE       what asking for those gives
 *   i.graphics.code CODE
 *   names CODE                what asking for a process's name gives
 *   calls FILE                each call for a list or a name adds a line to it
 *
 * With -DOLD it is a driver without the newer calls. -DLISTS=N says which
 * version of the calls for processes it has: 3, or an older one; 0: none.
 */
#ifndef LISTS
#define LISTS 3
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, BAD_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NOT_LOADED = 9, MISMATCH = 18, BAD_VERSION = 25, UNKNOWN = 999 };

struct card { unsigned index; };
typedef struct card *device;
static struct card all[8];
static int stale; /* the driver has gone since it was opened */

static const char *value(const char *key) {
	static __thread char line[1024];
	const char *file = getenv("FAKE_CARDS");
	FILE *f = file ? fopen(file, "r") : NULL;
	const char *found = NULL;
	size_t n = strlen(key);
	while (f && !found && fgets(line, sizeof line, f))
		if (strncmp(line, key, n) == 0 && line[n] == ' ') {
			line[strcspn(line, "\n")] = '\0';
			found = line + n + 1;
		}
	if (f)
		fclose(f);
	return found;
}

static const char *of(device d, const char *what) {
	char key[64];
	snprintf(key, sizeof key, "%u.%s", d->index, what);
	return value(key);
}

static unsigned long long number(const char *text) { return text ? strtoull(text, NULL, 10) : 0; }

static void maybe_hang(void) {
	while (value("hang"))
		usleep(1000);
}

static int copy(const char *text, char *out, unsigned n) {
	snprintf(out, n, "%s", text ? text : "");
	return OK;
}

int nvmlInit_v2(void) {
	for (unsigned i = 0; i < 8; i++)
		all[i].index = i;
	maybe_hang();
	int code = number(value("init"));
	if (code == OK)
		stale = 0;
	return code;
}
int nvmlInit(void) { return nvmlInit_v2(); }
int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) {
	static __thread char text[32];
	snprintf(text, sizeof text, "code %d of the fake driver", code);
	return text;
}

static void note(const char *call) {
	const char *file = value("calls");
	FILE *f = file ? fopen(file, "a") : NULL;
	if (f) {
		fprintf(f, "%s\n", call);
		fclose(f);
	}
}

#ifndef OLD
int nvmlSystemGetProcessName(unsigned pid, char *out, unsigned n) {
	note("name");
	snprintf(out, n, "process-%u", pid);
	return number(value("names"));
}
#endif

int nvmlDeviceGetCount_v2(unsigned *n) {
	*n = number(value("cards"));
	return OK;
}
int nvmlDeviceGetCount(unsigned *n) { return nvmlDeviceGetCount_v2(n); }

int nvmlDeviceGetHandleByIndex_v2(unsigned i, device *d) {
	if (i >= number(value("cards")))
		return BAD_ARGUMENT;
	*d = &all[i];
	return number(of(*d, "handle"));
}
int nvmlDeviceGetHandleByIndex(unsigned i, device *d) { return nvmlDeviceGetHandleByIndex_v2(i, d); }

int nvmlDeviceGetHandleByUUID(const char *wanted, device *d) {
	for (unsigned i = 0; i < number(value("cards")); i++) {
		const char *uuid = of(&all[i], "uuid");
		if (uuid && strcmp(uuid, wanted) == 0) {
			*d = &all[i];
			return number(of(*d, "handle"));
		}
	}
	return NOT_FOUND;
}

int nvmlDeviceGetUUID(device d, char *out, unsigned n) { return copy(of(d, "uuid"), out, n); }
int nvmlDeviceGetName(device d, char *out, unsigned n) { return copy(of(d, "name"), out, n); }

#ifndef OLD
int nvmlDeviceGetMigMode(device d, unsigned *now, unsigned *next) {
	*now = *next = number(of(d, "mig"));
	return OK;
}
#endif

/* A driver that went does not come back to those who had it open. */
static int memory(device d) {
	int code = number(of(d, "memory"));
	if (code == UNINITIALIZED || code == NOT_LOADED || code == MISMATCH || code == UNKNOWN)
		stale = 1;
	return stale ? (code ? code : UNINITIALIZED) : code;
}

int nvmlDeviceGetMemoryInfo(device d, unsigned long long out[3]) {
	maybe_hang();
	unsigned long long total = number(of(d, "total")), used = number(of(d, "used")) + number(of(d, "reserved"));
	out[0] = total, out[1] = total - used, out[2] = used;
	return memory(d);
}

struct process1 { unsigned pid; unsigned long long used; };
struct process2 { unsigned pid; unsigned long long used; unsigned gpu, compute; };

static int list(device d, const char *which, unsigned *n, void *out) {
	char key[32];
	note(which);
	snprintf(key, sizeof key, "%s.code", which);
	int code = number(of(d, key));
	if (code)
		return code;
	const char *text = of(d, which);
	unsigned found = 0, room = *n;
	while (text && *text) {
		char *end;
		unsigned pid = strtoul(text, &end, 10);
		unsigned long long used = *end == '=' ? (unsigned long long)strtoll(end + 1, &end, 10) : 0;
		if (found < room && LISTS > 1)
			((struct process2 *)out)[found] = (struct process2){pid, used, ~0u, ~0u};
		else if (found < room)
			((struct process1 *)out)[found] = (struct process1){pid, used};
		found++;
		text = *end == ',' ? end + 1 : "";
	}
	*n = found;
	return found > room ? TOO_SMALL : OK;
}

#if LISTS == 1
#define VERSION(call) call
#elif LISTS == 2
#define VERSION(call) call##_v2
#else
#define VERSION(call) call##_v3
#endif
#if LISTS > 0
int VERSION(nvmlDeviceGetComputeRunningProcesses)(device d, unsigned *n, void *out) { return list(d, "compute", n, out); }
int VERSION(nvmlDeviceGetGraphicsRunningProcesses)(device d, unsigned *n, void *out) { return list(d, "graphics", n, out); }
#else
void *unused = list;
#endif

#ifndef OLD
int nvmlDeviceGetUtilizationRates(device d, unsigned out[2]) {
	const char *busy = of(d, "busy");
	out[0] = number(busy), out[1] = 0;
	return busy ? OK : NOT_SUPPORTED;
}

struct memory2 { unsigned version; unsigned long long total, reserved, free, used; };

int nvmlDeviceGetMemoryInfo_v2(device d, struct memory2 *out) {
	if (out->version != (sizeof *out | 2u << 24))
		return BAD_VERSION;
	maybe_hang();
	out->total = number(of(d, "total")), out->reserved = number(of(d, "reserved")), out->used = number(of(d, "used"));
	out->free = out->total - out->reserved - out->used;
	return memory(d);
}
#endif
