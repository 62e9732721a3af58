//! Names, links, descriptors, devices: what is not granted is not reached by any of them.
//!
//! Runs in a host. Every file is one of the row's own place, or one that every machine has and that is only opened.

use sandbox_core::Layer;

use crate::Control::{Granted, Reaches, Works, WorksForRoot};
use crate::Expected::{Errno, Forbidden, Got, GotEnding};
use crate::place::CONTENTS;
use crate::row::{EVERYTHING, Grants, NOTHING, ONE_FOLDER};
use crate::{Control, Expected, HeldBy, Row};

const BROKER: &[HeldBy] = &[HeldBy::Broker, HeldBy::Layer(Layer::Landlock), HeldBy::Layer(Layer::EmptyRoot)];
const KERNEL: &[HeldBy] =
    &[HeldBy::Layer(Layer::Seccomp), HeldBy::Layer(Layer::Capabilities), HeldBy::Layer(Layer::EmptyRoot)];
const READ: Grants = &["file-read:{dir}/granted"];
const WRITE: Grants = &["file-write:{dir}/granted"];
const AT: i32 = libc::AT_FDCWD;

/// A file that is read by its path.
fn opens(name: &'static str, path: &str, control: Control) -> Row {
    Row::new(name, "open", path, Errno(libc::EACCES), control)
        .held_by(BROKER)
        .under(&[NOTHING, ONE_FOLDER])
        .told("file-read")
}

/// One that no grant reaches.
fn is_nothing_to_grant(name: &'static str, path: &str, control: Control) -> Row {
    opens(name, path, control).under(&[NOTHING, EVERYTHING])
}

/// A raw call about a path.
fn asks(name: &'static str, nr: libc::c_long, arguments: &str, control: Control) -> Row {
    Row::raw(name, nr, arguments, Errno(libc::EACCES), control).held_by(BROKER).under(&[NOTHING, ONE_FOLDER])
}

fn changes(name: &'static str, nr: libc::c_long, arguments: &str) -> Row {
    asks(name, nr, arguments, Works).told("file-write")
}

/// Another thread has the path lead inside and outside in turn; which of the two was read is counted.
fn races(name: &'static str, expected: Expected) -> Row {
    Row::new(name, "race", "2000\n{dir}/granted/one\n{dir}/outside/two", expected, Works)
        .held_by(&[HeldBy::Broker])
}

/// A door of the kernel's that ends whoever tries it.
fn door(name: &'static str, nr: libc::c_long, arguments: &str, control: Control) -> Row {
    Row::raw(name, nr, arguments, Forbidden, control).held_by(KERNEL)
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = ways_in();
    rows.extend(kernels_files());
    rows.extend(changed());
    rows.extend(half_granted());
    rows.extend(doors());
    rows
}

fn ways_in() -> Vec<Row> {
    let openat2 = |resolve: u64| format!("{AT} s:{{dir}}/outside/secret q:0,0,{resolve} 24");
    vec![
        opens("opens a file by its path", "{dir}/outside/secret", Works),
        opens("opens the passwords", "/etc/shadow", WorksForRoot),
        opens("climbs out of a granted folder", "{dir}/granted/../outside/secret", Works),
        opens("climbs out from deep below", "{dir}/granted/deep/er/../../../outside/secret", Works),
        opens("climbs to the root and down again", "{dir}/granted/../../../../../../etc/passwd", Works),
        opens("takes a name for its beginning", "{dir}/granted-too/secret", Works),
        opens("follows a link out of a granted folder", "{dir}/granted/link", Works),
        opens("goes through a link to a folder", "{dir}/granted/link-to-folder/secret", Works),
        opens("follows a link to a link", "{dir}/granted/link-to-link", Works),
        opens("follows a link by way of /proc", "{dir}/granted/link-by-root", Works),
        opens("writes every step twice", "{dir}/granted/.//../outside/./secret", Works),
        Row::new("opens as C does it", "open_c", "{dir}/outside/secret", Errno(libc::EACCES), Works)
            .held_by(BROKER)
            .under(&[NOTHING, ONE_FOLDER]),
        Row::new("lists a folder", "read_dir", "{dir}/outside", Errno(libc::EACCES), Works)
            .held_by(BROKER)
            .under(&[NOTHING, ONE_FOLDER])
            .told("file-read"),
        Row::new("lists the root", "read_dir", "/", Errno(libc::EACCES), Works)
            .held_by(BROKER)
            .under(&[NOTHING, ONE_FOLDER]),
        Row::new("asks for a file's attributes", "stat", "{dir}/outside/secret", Errno(libc::EACCES), Works)
            .held_by(BROKER)
            .under(&[NOTHING, ONE_FOLDER]),
        Row::new("asks which program it is", "readlink", "/proc/self/exe", Errno(libc::EACCES), Works)
            .held_by(BROKER)
            .under(&[NOTHING, EVERYTHING]),
        Row::new(
            "asks whether it may open a file",
            "access",
            "{dir}/outside/secret",
            Errno(libc::EACCES),
            Works,
        )
        .held_by(BROKER)
        .under(&[NOTHING, ONE_FOLDER]),
        asks(
            "asks about a file system",
            libc::SYS_statfs,
            "s:{dir}/outside q:0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
            Works,
        ),
        asks("goes into a folder", libc::SYS_chdir, "s:{dir}/outside", Works),
        asks(
            "opens a path and nothing of it",
            libc::SYS_openat,
            &format!("{AT} s:{{dir}}/outside/secret {}", libc::O_PATH),
            Works,
        ),
        asks("opens without magic links", libc::SYS_openat2, &openat2(libc::RESOLVE_NO_MAGICLINKS), Works),
        asks("opens without links", libc::SYS_openat2, &openat2(libc::RESOLVE_NO_SYMLINKS), Works),
        Row::raw(
            "opens in a way that is not offered",
            libc::SYS_openat2,
            &openat2(libc::RESOLVE_IN_ROOT),
            Errno(libc::ENOSYS),
            Reaches(&[libc::ENOENT]),
        )
        .held_by(&[HeldBy::Broker]),
        races("changes a path while it is judged, and may open neither", Got("0 0".to_owned()))
            .under(&[NOTHING]),
        races("changes a path while it is judged, and may open one", GotEnding(" 0")).under(&[ONE_FOLDER]),
    ]
}

fn kernels_files() -> Vec<Row> {
    vec![
        is_nothing_to_grant("goes by the root of a process", "/proc/self/root/etc/passwd", Works),
        is_nothing_to_grant("goes by the root of a thread", "/proc/thread-self/root/etc/passwd", Works),
        is_nothing_to_grant("reopens its standard input", "/proc/self/fd/0", Works),
        is_nothing_to_grant("reopens a descriptor by another name", "/dev/fd/0", Works),
        is_nothing_to_grant("reads its own map", "/proc/self/maps", Works),
        is_nothing_to_grant("reads the host's environment", "/proc/{host}/environ", WorksForRoot),
        is_nothing_to_grant("reads the host's map", "/proc/{host}/maps", WorksForRoot),
        is_nothing_to_grant("reads a sibling's command line", "/proc/{sibling}/cmdline", Works),
        is_nothing_to_grant("reads the list of mounts", "/proc/self/mountinfo", Works),
        asks(
            "opens the host's memory",
            libc::SYS_openat,
            &format!("{AT} s:/proc/{{host}}/mem {}", libc::O_RDWR),
            WorksForRoot,
        )
        .under(&[NOTHING, EVERYTHING]),
        asks(
            "opens what names programs for core dumps",
            libc::SYS_openat,
            &format!("{AT} s:/proc/sys/kernel/core_pattern {}", libc::O_WRONLY),
            WorksForRoot,
        )
        .under(&[NOTHING, EVERYTHING]),
        asks(
            "opens what moves it to another group",
            libc::SYS_openat,
            &format!("{AT} s:/proc/self/oom_score_adj {}", libc::O_WRONLY),
            Works,
        )
        .under(&[NOTHING, EVERYTHING]),
        asks("opens a device", libc::SYS_openat, &format!("{AT} s:/dev/full {}", libc::O_RDWR), Works)
            .under(&[NOTHING, EVERYTHING]),
        asks("opens a new terminal", libc::SYS_openat, &format!("{AT} s:/dev/ptmx {}", libc::O_RDWR), Works)
            .under(&[NOTHING, EVERYTHING]),
        asks(
            "opens a FIFO",
            libc::SYS_openat,
            &format!("{AT} s:{{dir}}/granted/fifo {}", libc::O_RDWR),
            Works,
        )
        .under(&[NOTHING, ONE_FOLDER, EVERYTHING]),
    ]
}

fn changed() -> Vec<Row> {
    let (to_write, nameless, empties) =
        (libc::O_WRONLY, libc::O_RDWR | libc::O_TMPFILE, libc::O_RDONLY | libc::O_TRUNC);
    vec![
        changes(
            "opens a file to write",
            libc::SYS_openat,
            &format!("{AT} s:{{dir}}/outside/secret {to_write}"),
        ),
        asks(
            "empties a file while it reads",
            libc::SYS_openat,
            &format!("{AT} s:{{dir}}/outside/secret {empties}"),
            Works,
        ),
        Row::raw(
            "makes a file without a name",
            libc::SYS_openat,
            &format!("{AT} s:{{dir}}/granted {nameless} 384"),
            Errno(libc::EOPNOTSUPP),
            Works,
        )
        .held_by(BROKER)
        .under(&[NOTHING, ONE_FOLDER, EVERYTHING]),
        changes("makes a folder", libc::SYS_mkdirat, &format!("{AT} s:{{dir}}/outside/folder 448")),
        changes("removes a file", libc::SYS_unlinkat, &format!("{AT} s:{{dir}}/outside/secret 0")),
        changes("cuts a file short", libc::SYS_truncate, "s:{dir}/outside/secret 1"),
        changes("changes a file's mode", libc::SYS_fchmodat, &format!("{AT} s:{{dir}}/outside/secret 511")),
        changes(
            "changes a file's owner",
            libc::SYS_fchownat,
            &format!("{AT} s:{{dir}}/outside/secret -1 -1 0"),
        ),
        changes("changes a file's dates", libc::SYS_utimensat, &format!("{AT} s:{{dir}}/outside/secret 0 0")),
        changes("makes a link", libc::SYS_symlinkat, &format!("s:/etc/passwd {AT} s:{{dir}}/outside/link")),
        changes(
            "gives a file a name in a granted folder",
            libc::SYS_linkat,
            &format!("{AT} s:{{dir}}/outside/secret {AT} s:{{dir}}/granted/mine 0"),
        )
        .under(&[NOTHING, ONE_FOLDER]),
        changes(
            "moves a file into a granted folder",
            libc::SYS_renameat2,
            &format!("{AT} s:{{dir}}/outside/secret {AT} s:{{dir}}/granted/mine 0"),
        ),
        changes(
            "moves a file out of a granted folder",
            libc::SYS_renameat2,
            &format!("{AT} s:{{dir}}/granted/file {AT} s:{{dir}}/outside/theirs 0"),
        ),
        changes(
            "writes by way of a link",
            libc::SYS_openat,
            &format!("{AT} s:{{dir}}/granted/link {}", libc::O_WRONLY),
        ),
        Row::raw(
            "gives a file an attribute",
            libc::SYS_setxattr,
            "s:{dir}/outside/secret s:user.probe s:x 1 0",
            Errno(libc::EPERM),
            Works,
        )
        .held_by(BROKER)
        .told("file-write"),
        asks(
            "makes a device",
            libc::SYS_mknodat,
            &format!("{AT} s:{{dir}}/granted/null 8630 259"),
            WorksForRoot,
        )
        .under(&[NOTHING, ONE_FOLDER, EVERYTHING])
        .held_by(&[HeldBy::Broker, HeldBy::Layer(Layer::Capabilities)]),
        asks("makes a FIFO", libc::SYS_mknodat, &format!("{AT} s:{{dir}}/granted/pipe 4516 0"), Works)
            .under(&[NOTHING, ONE_FOLDER, EVERYTHING]),
        Row::new(
            "has a file run with its owner's rights",
            "stat",
            "{dir}/granted/file",
            Got("8 100755".to_owned()),
            Control::Got("8 104755"),
        )
        .after("syscall", format!("{} {AT} s:{{dir}}/granted/file 2541", libc::SYS_fchmodat))
        .held_by(BROKER)
        .under(&[ONE_FOLDER]),
        Row::raw("locks what others lock", libc::SYS_flock, "0 1", Errno(libc::EPERM), Works).held_by(BROKER),
        Row::raw("watches files", libc::SYS_inotify_init1, "0", Errno(libc::EPERM), Works),
        Row::raw("watches file systems", libc::SYS_fanotify_init, "0 0", Errno(libc::ENOSYS), WorksForRoot),
        Row::raw(
            "asks for a file's handle",
            libc::SYS_name_to_handle_at,
            &format!("{AT} s:{{dir}}/outside/secret q:0,0,0 q:0 0"),
            Errno(libc::ENOSYS),
            Reaches(&[libc::EOVERFLOW, libc::EOPNOTSUPP]),
        ),
    ]
}

fn half_granted() -> Vec<Row> {
    vec![
        Row::new("writes what it may read", "write_file", "{dir}/granted/file", Errno(libc::EACCES), Works)
            .held_by(BROKER)
            .under(&[READ])
            .told("file-write"),
        Row::new(
            "reads what it may write",
            "open",
            "{dir}/granted/file",
            Errno(libc::EACCES),
            Granted(READ, Got(CONTENTS.to_owned())),
        )
        .held_by(BROKER)
        .under(&[WRITE])
        .told("file-read"),
        asks(
            "empties what it may read",
            libc::SYS_openat,
            &format!("{AT} s:{{dir}}/granted/file {}", libc::O_RDONLY | libc::O_TRUNC),
            Works,
        )
        .under(&[READ]),
        Row::new(
            "maps what it may read as code",
            "mmap_exec_file",
            "{dir}/granted/file",
            Errno(libc::EPERM),
            Works,
        )
        .held_by(&[HeldBy::Layer(Layer::NoExecFiles)])
        .under(&[READ, EVERYTHING]),
        Row::new(
            "turns what it may read into code",
            "mprotect_exec_file",
            "{dir}/granted/file",
            Errno(libc::EACCES),
            Works,
        )
        .held_by(&[HeldBy::Layer(Layer::NoExecFiles), HeldBy::Layer(Layer::Seccomp)])
        .under(&[READ, EVERYTHING]),
    ]
}

fn doors() -> Vec<Row> {
    vec![
        door(
            "opens a file by its handle",
            libc::SYS_open_by_handle_at,
            &format!("{AT} 0 0"),
            Reaches(&[libc::EFAULT, libc::EPERM]),
        ),
        door("mounts", libc::SYS_mount, "0 0 0 0 0", Reaches(&[libc::EFAULT])),
        door("unmounts", libc::SYS_umount2, "s:/nowhere 0", Reaches(&[libc::ENOENT, libc::EPERM])),
        door("pivots the root", libc::SYS_pivot_root, "0 0", Reaches(&[libc::EFAULT, libc::EPERM])),
        door("changes the root", libc::SYS_chroot, "s:/", WorksForRoot),
        door("copies a mount tree", libc::SYS_open_tree, &format!("{AT} s:/ 1"), WorksForRoot),
        door("opens a place in the mount tree", libc::SYS_open_tree, &format!("{AT} s:/ 0"), Works),
        door(
            "moves a mount",
            libc::SYS_move_mount,
            "-1 s: -1 s: 0",
            Reaches(&[libc::EBADF, libc::ENOENT, libc::EPERM]),
        ),
        door("makes a file system", libc::SYS_fsopen, "s:tmpfs 0", WorksForRoot),
        door(
            "configures a file system",
            libc::SYS_fsconfig,
            "-1 0 0 0 0",
            Reaches(&[libc::EINVAL, libc::EBADF]),
        ),
        door("mounts a file system", libc::SYS_fsmount, "-1 0 0", Reaches(&[libc::EBADF, libc::EPERM])),
        door("picks a file system", libc::SYS_fspick, &format!("{AT} s:/ 0"), WorksForRoot),
        door(
            "changes a mount",
            libc::SYS_mount_setattr,
            "-1 s: 0 0 0",
            Reaches(&[libc::EINVAL, libc::EPERM]),
        ),
        door(
            "sets quotas",
            libc::SYS_quotactl,
            "-1 0 0 0",
            Reaches(&[libc::EINVAL, libc::ENOENT, libc::ENODEV, libc::EPERM]),
        ),
        door("keeps accounts", libc::SYS_acct, "s:/nowhere/at/all", Reaches(&[libc::ENOENT, libc::EPERM])),
        door("swaps to a file", libc::SYS_swapon, "0 0", Reaches(&[libc::EFAULT, libc::EPERM])),
        door("stops swapping to a file", libc::SYS_swapoff, "0", Reaches(&[libc::EFAULT, libc::EPERM])),
    ]
}
