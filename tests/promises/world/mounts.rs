//! File systems of one test's own: a mount namespace in which a tmpfs holds the image of an ext4, or stands for the
//! disk itself. The namespace belongs to a process that ends with the test, however the test ends; nothing is ever
//! mounted outside of it, and loop devices go with their mounts.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use super::gateway::Gateway;

/// The namespace.
pub(crate) struct Mounts {
    holder: Child,
    folder: TempDir,
}

impl Mounts {
    /// A namespace with an empty tmpfs of `size` at [`Self::folder`]. The error says what this machine does not allow.
    pub(crate) fn with_tmpfs(size: &str) -> Result<Self, String> {
        let folder =
            tempfile::Builder::new().prefix("hookgate-mounts-").tempdir().expect("a folder for temporary files");
        // `cat` ends when the pipe does, and the pipe when the test does.
        let script = "mount -t tmpfs -o mode=0755,size=\"$1\" tmpfs \"$0\" && echo ready && exec cat";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script]).arg(folder.path()).arg(size);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().map_err(|error| format!("unshare is not installed: {error}"))?;
        let mut ready = [0; 6];
        if holder.stdout.take().expect("a pipe").read_exact(&mut ready).is_err() {
            drop(holder.stdin.take());
            let said = holder.wait_with_output().expect("a child of ours");
            let said = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            return Err(format!("a mount namespace cannot be had here (it takes root): {said}"));
        }
        Ok(Self { holder, folder })
    }

    /// Where the tmpfs is, inside the namespace.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path of the namespace as it is reached from outside.
    pub(crate) fn outside(&self, path: &Path) -> PathBuf {
        let inner = path.strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inner)
    }

    /// What a gateway is started through so that it lives inside.
    pub(crate) fn entrance(&self) -> String {
        format!("exec nsenter --target {} --mount -- \"$0\" \"$@\"", self.holder.id())
    }

    /// Runs a shell script inside, with `$D` for the folder, and returns what it printed.
    pub(crate) fn sh(&self, script: &str) -> String {
        self.try_sh(script).unwrap_or_else(|said| panic!("in the namespace: {script}: {said}"))
    }

    /// The same where failure is possible.
    pub(crate) fn try_sh(&self, script: &str) -> Result<String, String> {
        let mut command = Command::new("nsenter");
        let script = format!("PATH=$PATH:/usr/sbin:/sbin; {script}");
        command.args(["--target", &self.holder.id().to_string(), "--mount", "--", "sh", "-ec", &script]);
        let done = command.env("D", self.folder()).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
    }

    /// Replaces a file of the system inside the namespace alone, and returns the path that its text is changed by.
    pub(crate) fn cover(&self, file: &str, text: &str) -> PathBuf {
        let own = self.folder().join(file.replace('/', "-"));
        std::fs::write(self.outside(&own), text).expect("a tmpfs takes a small file");
        self.sh(&format!("mount --bind '{}' {file}", own.display()));
        self.outside(&own)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

/// How often a copy is tried before the writer is stopped for it.
const TRIES: usize = 5;

/// An ext4 whose device is a file in memory: what was synced is in the file, what was not is not.
pub(crate) struct Platter {
    /// The namespace it is mounted in.
    pub(crate) mounts: Mounts,
    device: String,
    generation: u32,
}

impl Platter {
    /// Makes one of `megabytes`, which writes nothing by itself for ten minutes.
    pub(crate) fn new(megabytes: u32) -> Result<Self, String> {
        let mounts = Mounts::with_tmpfs(&format!("{}m", 3 * megabytes + 8))?;
        mounts
            .try_sh(&format!("mkdir $D/disk; truncate -s {megabytes}M $D/0.img; mkfs.ext4 -q -F -J size=4 $D/0.img"))?;
        let mut platter = Self { mounts, device: String::new(), generation: 0 };
        platter.mount().map_err(|said| format!("no loop device can be mounted here: {said}"))?;
        Ok(platter)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.mounts.folder().join("disk")
    }

    fn mount(&mut self) -> Result<(), String> {
        let image = self.generation;
        let options = "loop,commit=600,errors=remount-ro";
        self.device =
            self.mounts.try_sh(&format!("mount -o {options} $D/{image}.img $D/disk; findmnt -no SOURCE $D/disk"))?;
        Ok(())
    }

    /// What the kernel counts for the device: all of it stands still while nothing is written.
    fn traffic(&self) -> String {
        let name = self.device.trim_start_matches("/dev/");
        std::fs::read_to_string(format!("/sys/block/{name}/stat")).expect("the statistics of a block device")
    }

    /// Copies what is on the platter at one moment, while `writer` writes to it. If no moment is quiet for the time of a
    /// copy, the writer is stopped for it, after the system calls that it is in; what it has not synced is not copied
    /// either way. Returns whether it had to be stopped.
    pub(crate) fn copy(&self, writer: &Gateway) -> bool {
        let [from, to] = [self.generation, self.generation + 1]
            .map(|n| self.mounts.outside(&self.mounts.folder().join(format!("{n}.img"))));
        for n in 0..TRIES {
            let stopped = n + 1 == TRIES;
            if stopped {
                writer.signal(Signal::STOP);
            }
            let before = self.traffic();
            copy_written(&from, &to);
            if self.traffic() == before {
                return stopped;
            }
        }
        // The last system calls of the stopped writer.
        copy_written(&from, &to);
        true
    }

    /// The power comes back: what was copied last is mounted in the place of what was there.
    pub(crate) fn power_on(&mut self) {
        let old = self.generation;
        self.mounts.sh("umount -l $D/disk");
        self.generation += 1;
        self.mount().expect("an ext4 can be mounted after a power cut");
        self.mounts.try_sh(&format!("rm $D/{old}.img")).ok();
    }

    /// The file system finds an error in itself and is read-only from now on.
    pub(crate) fn fail(&self) {
        let name = self.device.trim_start_matches("/dev/");
        self.mounts.sh(&format!("echo 1 > /sys/fs/ext4/{name}/trigger_fs_error"));
    }

    /// What an operator does about that.
    pub(crate) fn check_and_mount_again(&mut self) {
        self.mounts.sh("umount $D/disk");
        let image = self.generation;
        self.mounts.sh(&format!("e2fsck -p $D/{image}.img >/dev/null || test $? -le 1"));
        self.mount().expect("a checked ext4 can be mounted");
    }
}

/// Copies the written parts of a sparse file, in a moment.
fn copy_written(from: &Path, to: &Path) {
    use rustix::fs::SeekFrom::{Data, Hole};
    let source = std::fs::File::open(from).expect("the image");
    let mut target = std::fs::File::create(to).expect("a tmpfs with room for a copy");
    let length = source.metadata().expect("a file").len();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&source, Data(at)) {
        let end = rustix::fs::seek(&source, Hole(start)).unwrap_or(length);
        let mut bytes = vec![0; usize::try_from(end - start).expect("an image that fits into memory")];
        source.read_exact_at(&mut bytes, start).expect("the image can be read");
        target.seek(SeekFrom::Start(start)).expect("a file");
        target.write_all(&bytes).expect("a tmpfs with room for a copy");
        at = end;
    }
    target.set_len(length).expect("a tmpfs with room for a copy");
}
