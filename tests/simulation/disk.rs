//! A fake disk: a layer of `SQLite`'s that stands between it and real files in memory. It knows which writes were synced,
//! fails when it is told to, and says what a crash at this moment leaves behind. The one file here with `unsafe` in it:
//! `SQLite` is told of such a layer by a table of C functions.
//!
//! A kill of the process leaves every write. A loss of power leaves what was synced, and of the rest a random part; one
//! of those writes may be torn between sectors of 512 bytes. A write whose sync failed is never made safe by a later
//! sync of the same file, for Linux forgets that it is dirty. Names of files are safe at once.

#![allow(unsafe_code, reason = "a VFS of SQLite's is a table of C functions")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Once};

use rusqlite::ffi;
use tokio::time::Instant;

const SECTOR: usize = 512;

/// What the disk does to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It fails.
    Io,
    /// There is no space.
    Full,
    /// The world ends with it: it and all later ones have no effect.
    End,
}

/// How a run on the disk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The process is gone; what it wrote is there.
    Kill,
    /// The machine is gone, and with it some of what was not synced.
    Power,
}

/// The disk of one directory. Cloning shares it.
#[derive(Clone, Debug)]
pub struct FakeDisk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    state: Mutex<State>,
    ended: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct State {
    dead: bool,
    /// What every operation meets now.
    trouble: Option<Trouble>,
    /// Writes, truncations and syncs so far.
    operations: u64,
    /// What single operations meet, by their number.
    planned: Vec<(u64, Trouble)>,
    files: BTreeMap<PathBuf, Vec<Write>>,
    log_synced: Option<Instant>,
    failures: Vec<Instant>,
}

/// One change of a file. `new` is `None` for a truncation to `at`.
#[derive(Debug)]
struct Write {
    at: usize,
    old: Vec<u8>,
    old_length: usize,
    new: Option<Vec<u8>>,
    safe: Safe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Safe {
    Yes,
    NotYet,
    Never,
}

static REGISTERED: Once = Once::new();
static DISKS: Mutex<Vec<Arc<Inner>>> = Mutex::new(Vec::new());

impl FakeDisk {
    /// The disk of `directory`, which is made.
    pub fn new(directory: &Path) -> Self {
        REGISTERED.call_once(register);
        fs::create_dir_all(directory).unwrap();
        let inner =
            Inner { directory: directory.to_owned(), state: Mutex::default(), ended: tokio::sync::Notify::new() };
        let disk = Self(Arc::new(inner));
        DISKS.lock().unwrap().push(disk.0.clone());
        disk
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// From now on every operation meets this.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        self.0.lock().trouble = trouble;
    }

    /// The `nth` operation from now on meets this, once.
    pub fn plan(&self, nth: u64, trouble: Trouble) {
        let mut state = self.0.lock();
        let at = state.operations + nth;
        state.planned.push((at, trouble));
    }

    /// Nothing goes wrong any more but the end of the world.
    pub fn heal(&self) {
        let mut state = self.0.lock();
        state.trouble = None;
        state.planned.retain(|(_, trouble)| *trouble == Trouble::End);
    }

    /// Nothing has an effect any more.
    pub fn end(&self) {
        self.0.lock().dead = true;
        self.0.ended.notify_one();
    }

    /// Whether the world has ended.
    pub fn is_dead(&self) -> bool {
        self.0.lock().dead
    }

    /// Comes when an operation has ended the world.
    pub async fn ended(&self) {
        self.0.ended.notified().await;
    }

    /// When the write-ahead log was last synced.
    pub fn log_synced(&self) -> Option<Instant> {
        self.0.lock().log_synced
    }

    /// When operations failed.
    pub fn failures(&self) -> Vec<Instant> {
        self.0.lock().failures.clone()
    }

    /// What is left of the disk, as a new one in `directory`. This one is gone.
    pub fn after(self, loss: Loss, directory: &Path, rng: &mut fastrand::Rng) -> Self {
        let left = Self::new(directory);
        let mut state = self.0.lock();
        state.dead = true;
        let mut names: Vec<PathBuf> =
            fs::read_dir(&self.0.directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for path in names {
            let name = path.file_name().unwrap().to_owned();
            if name.to_string_lossy().ends_with("-shm") {
                continue;
            }
            let mut content = fs::read(&path).unwrap();
            if let (Loss::Power, Some(writes)) = (loss, state.files.get(&path)) {
                content = survivors(content, writes, rng);
            }
            fs::write(directory.join(name), content).unwrap();
        }
        drop(state);
        self.remove();
        left
    }

    /// Deletes it.
    pub fn remove(self) {
        self.0.lock().dead = true;
        DISKS.lock().unwrap().retain(|disk| !Arc::ptr_eq(disk, &self.0));
        fs::remove_dir_all(&self.0.directory).unwrap();
    }
}

/// What a loss of power leaves of a file.
fn survivors(mut content: Vec<u8>, writes: &[Write], rng: &mut fastrand::Rng) -> Vec<u8> {
    for write in writes.iter().rev() {
        write.undo(&mut content);
    }
    let unsafe_ones: Vec<usize> = (0..writes.len()).filter(|at| writes[*at].safe != Safe::Yes).collect();
    let mode = rng.u8(..4);
    let kept_until = rng.usize(..=unsafe_ones.len());
    let mut lost = vec![false; writes.len()];
    for (place, at) in unsafe_ones.iter().enumerate() {
        lost[*at] = match mode {
            0 => true,
            1 => place >= kept_until,
            _ => rng.bool(),
        };
    }
    let torn = unsafe_ones.iter().rev().find(|at| !lost[**at]).copied().filter(|_| rng.bool());
    for (at, write) in writes.iter().enumerate() {
        if !lost[at] {
            write.redo(&mut content, if torn == Some(at) { Some(&mut *rng) } else { None });
        }
    }
    content
}

impl Write {
    fn undo(&self, content: &mut Vec<u8>) {
        let end = self.at + self.old.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[self.at..end].copy_from_slice(&self.old);
        content.resize(self.old_length, 0);
    }

    /// Does it again; with chance, only some sectors of it.
    fn redo(&self, content: &mut Vec<u8>, chance: Option<&mut fastrand::Rng>) {
        let Some(new) = &self.new else { return content.resize(self.at, 0) };
        let end = self.at + new.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        match chance {
            None => content[self.at..end].copy_from_slice(new),
            Some(rng) => {
                for (piece, bytes) in new.chunks(SECTOR).enumerate() {
                    if rng.bool() {
                        let from = self.at + piece * SECTOR;
                        content[from..from + bytes.len()].copy_from_slice(bytes);
                    }
                }
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What an operation that changes something meets.
    fn operation(&self) -> Option<Trouble> {
        let mut state = self.lock();
        if state.dead {
            return Some(Trouble::End);
        }
        state.operations += 1;
        let number = state.operations;
        let planned = state.planned.iter().find(|(at, _)| *at == number).map(|(_, trouble)| *trouble);
        let met = planned.or(state.trouble);
        if met.is_some() {
            state.failures.push(Instant::now());
        }
        if met == Some(Trouble::End) {
            state.dead = true;
            self.ended.notify_one();
        }
        met
    }

    /// What an operation that changes nothing meets.
    fn look(&self) -> Option<Trouble> {
        let mut state = self.lock();
        let met = if state.dead { Some(Trouble::End) } else { state.trouble.filter(|met| *met == Trouble::Io) };
        if met.is_some() {
            state.failures.push(Instant::now());
        }
        met
    }
}

/// An open file of ours; the real one follows it in memory.
#[repr(C)]
struct File {
    head: ffi::sqlite3_file,
    disk: *const Inner,
    path: *mut PathBuf,
}

const OWN: usize = std::mem::size_of::<File>().next_multiple_of(16);

/// The layer below: real files.
fn below() -> *mut ffi::sqlite3_vfs {
    // SAFETY: "unix" is built in and lives as long as the process.
    unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) }
}

unsafe fn inner<'a>(file: *mut ffi::sqlite3_file) -> Option<&'a Inner> {
    unsafe { (*file.cast::<File>()).disk.as_ref() }
}

unsafe fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    unsafe { file.cast::<u8>().add(OWN).cast() }
}

unsafe fn path<'a>(file: *mut ffi::sqlite3_file) -> &'a PathBuf {
    unsafe { &*(*file.cast::<File>()).path }
}

macro_rules! down {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        let real = real($file);
        ((*(*real).pMethods).$method.unwrap())(real $(, $argument)*)
    }};
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe {
        let rc = down!(file, xClose);
        let own = file.cast::<File>();
        if !(*own).disk.is_null() {
            drop(Arc::from_raw((*own).disk));
        }
        drop(Box::from_raw((*own).path));
        rc
    }
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, amount: c_int, at: i64) -> c_int {
    unsafe {
        if inner(file).and_then(Inner::look).is_some() {
            return ffi::SQLITE_IOERR_READ;
        }
        down!(file, xRead, to, amount, at)
    }
}

/// The bytes that stand between `at` and `at + amount`, as far as there are any, and the file's length.
unsafe fn before(file: *mut ffi::sqlite3_file, at: usize, amount: usize) -> (Vec<u8>, usize) {
    unsafe {
        let mut length = 0_i64;
        down!(file, xFileSize, &raw mut length);
        let length = usize::try_from(length).unwrap();
        let mut old = vec![0; amount.min(length.saturating_sub(at))];
        if !old.is_empty() {
            let size = c_int::try_from(old.len()).unwrap();
            down!(file, xRead, old.as_mut_ptr().cast(), size, i64::try_from(at).unwrap());
        }
        (old, length)
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, amount: c_int, at: i64) -> c_int {
    unsafe {
        if let Some(disk) = inner(file) {
            match disk.operation() {
                None => {}
                Some(Trouble::Io | Trouble::End) => return ffi::SQLITE_IOERR_WRITE,
                Some(Trouble::Full) => return ffi::SQLITE_FULL,
            }
            let (place, size) = (usize::try_from(at).unwrap(), usize::try_from(amount).unwrap());
            let (old, old_length) = before(file, place, size);
            let new = Some(std::slice::from_raw_parts(from.cast::<u8>(), size).to_vec());
            let write = Write { at: place, old, old_length, new, safe: Safe::NotYet };
            disk.lock().files.entry(path(file).clone()).or_default().push(write);
        }
        down!(file, xWrite, from, amount, at)
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    unsafe {
        if let Some(disk) = inner(file) {
            if disk.operation().is_some() {
                return ffi::SQLITE_IOERR_TRUNCATE;
            }
            let at = usize::try_from(size).unwrap();
            let (old, old_length) = before(file, at, usize::MAX / 2);
            let write = Write { at, old, old_length, new: None, safe: Safe::NotYet };
            disk.lock().files.entry(path(file).clone()).or_default().push(write);
        }
        down!(file, xTruncate, size)
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    unsafe {
        let Some(disk) = inner(file) else { return ffi::SQLITE_OK };
        let met = disk.operation();
        let path = path(file);
        let mut state = disk.lock();
        let is_log = path.to_string_lossy().ends_with("-wal");
        let writes = state.files.entry(path.clone()).or_default();
        let reached = if met.is_none() { Safe::Yes } else { Safe::Never };
        for write in writes.iter_mut().filter(|write| write.safe == Safe::NotYet) {
            write.safe = reached;
        }
        let settled = writes.iter().position(|write| write.safe != Safe::Yes).unwrap_or(writes.len());
        writes.drain(..settled);
        if met.is_some() {
            return ffi::SQLITE_IOERR_FSYNC;
        }
        if is_log {
            state.log_synced = Some(Instant::now());
        }
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    unsafe { down!(file, xFileSize, size) }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    unsafe { down!(file, xLock, level) }
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    unsafe { down!(file, xUnlock, level) }
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    unsafe { down!(file, xCheckReservedLock, out) }
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    unsafe { down!(file, xFileControl, op, argument) }
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe { down!(file, xSectorSize) }
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe { down!(file, xDeviceCharacteristics) }
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    unsafe {
        if inner(file).and_then(Inner::look).is_some() {
            return ffi::SQLITE_IOERR_SHMMAP;
        }
        down!(file, xShmMap, region, size, extend, out)
    }
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    unsafe { down!(file, xShmLock, offset, n, flags) }
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    unsafe { down!(file, xShmBarrier) }
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    unsafe { down!(file, xShmUnmap, delete) }
}

unsafe extern "C" fn fetch(file: *mut ffi::sqlite3_file, at: i64, amount: c_int, out: *mut *mut c_void) -> c_int {
    unsafe { down!(file, xFetch, at, amount, out) }
}

unsafe extern "C" fn unfetch(file: *mut ffi::sqlite3_file, at: i64, page: *mut c_void) -> c_int {
    unsafe { down!(file, xUnfetch, at, page) }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: Some(fetch),
    xUnfetch: Some(unfetch),
};

fn disk_of(path: &Path) -> Option<Arc<Inner>> {
    DISKS.lock().unwrap().iter().find(|disk| path.starts_with(&disk.directory)).cloned()
}

unsafe fn path_of(name: *const c_char) -> PathBuf {
    if name.is_null() {
        return PathBuf::new();
    }
    PathBuf::from(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    unsafe {
        let path = path_of(name);
        let disk = disk_of(&path);
        (*file).pMethods = std::ptr::null();
        if disk.as_deref().and_then(Inner::look).is_some() {
            return ffi::SQLITE_CANTOPEN;
        }
        let below = below();
        let rc = ((*below).xOpen.unwrap())(below, name, real(file), flags, out_flags);
        if rc != ffi::SQLITE_OK {
            return rc;
        }
        let own = file.cast::<File>();
        (*own).disk = disk.map_or(std::ptr::null(), Arc::into_raw);
        (*own).path = Box::into_raw(Box::new(path));
        (*own).head.pMethods = &raw const METHODS;
        rc
    }
}

unsafe extern "C" fn delete(_vfs: *mut ffi::sqlite3_vfs, name: *const c_char, _sync: c_int) -> c_int {
    unsafe {
        let path = path_of(name);
        if let Some(disk) = disk_of(&path) {
            if disk.operation().is_some() {
                return ffi::SQLITE_IOERR_DELETE;
            }
            disk.lock().files.remove(&path);
        }
        let below = below();
        ((*below).xDelete.unwrap())(below, name, 0)
    }
}

unsafe extern "C" fn access(_vfs: *mut ffi::sqlite3_vfs, name: *const c_char, flags: c_int, out: *mut c_int) -> c_int {
    unsafe {
        if disk_of(&path_of(name)).as_deref().and_then(Inner::look).is_some() {
            return ffi::SQLITE_IOERR_ACCESS;
        }
        let below = below();
        ((*below).xAccess.unwrap())(below, name, flags, out)
    }
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    size: c_int,
    out: *mut c_char,
) -> c_int {
    unsafe {
        let below = below();
        ((*below).xFullPathname.unwrap())(below, name, size, out)
    }
}

/// A wait for another connection's lock: nobody else runs meanwhile, so there is nothing to wait for.
unsafe extern "C" fn sleep(_vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    microseconds
}

/// Makes the layer the default of this process.
fn register() {
    // SAFETY: the table lives as long as the process; what is not ours in it is copied from the layer below.
    unsafe {
        ffi::sqlite3_initialize();
        let below = below();
        let mut ours = *below;
        ours.szOsFile = c_int::try_from(OWN).unwrap() + (*below).szOsFile;
        ours.zName = c"fake".as_ptr();
        ours.pNext = std::ptr::null_mut();
        ours.xOpen = Some(open);
        ours.xDelete = Some(delete);
        ours.xAccess = Some(access);
        ours.xFullPathname = Some(full_pathname);
        ours.xSleep = Some(sleep);
        let rc = ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 1);
        assert_eq!(rc, ffi::SQLITE_OK);
    }
}
