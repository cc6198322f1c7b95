/* Loaded before libc, makes every sync succeed and do nothing: the control of the power-cut test,
   which must then find a loss. */
#define _GNU_SOURCE
int fsync(int file) { (void)file; return 0; }
int fdatasync(int file) { (void)file; return 0; }
int syncfs(int file) { (void)file; return 0; }
int msync(void *at, unsigned long length, int flags) { (void)at; (void)length; (void)flags; return 0; }
int sync_file_range(int file, long from, long length, unsigned flags) {
    (void)file; (void)from; (void)length; (void)flags;
    return 0;
}
void sync(void) {}
