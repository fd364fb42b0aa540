use super::*;

fn files(root: Option<&str>, cwd: &str, rw: &[&str]) -> Files {
    let shares = rw.iter().map(|path| Share::new(path.into(), path.into(), Access::ReadWrite));
    let root = root.map(|folder| (folder.into(), true));
    let mut files = Files { root, cwd: cwd.into(), shares: shares.collect() };
    files.add_work();
    files
}

/// Where the command starts, and whether that is shared by itself.
fn work(root: Option<&str>, cwd: &str, rw: &[&str]) -> (Option<String>, bool) {
    let files = files(root, cwd, rw);
    let directory = files.working_directory().map(|path| path.display().to_string());
    (directory, files.shares.len() > rw.len())
}

fn at(path: &str) -> Option<String> {
    Some(path.into())
}

#[test]
fn none_is_a_word_and_all_else_a_folder() {
    assert_eq!(parse(OsStr::new("none")), Choice::None);
    assert_eq!(parse(OsStr::new("./none")), Choice::Folder("./none".into()));
}

#[test]
fn the_command_starts_where_the_guest_has_that_folder() {
    assert_eq!(work(Some("/"), "/home/me/src", &[]), (at("/home/me/src"), false));
    assert_eq!(work(Some("/srv/tree"), "/home/me", &[]), (at("/"), false));
    assert_eq!(work(Some("/srv/tree"), "/srv/tree/etc", &[]), (at("/etc"), false));
    assert_eq!(work(Some("/srv/tree"), "/home/me/src", &["/home/me"]), (at("/home/me/src"), false));
    assert_eq!(work(None, "/home/me", &[]), (None, false));
    assert_eq!(work(None, "/home/me", &["/home/me"]), (at("/home/me"), false));
}

#[test]
fn a_folder_in_what_is_the_guests_own_is_shared_by_itself() {
    assert_eq!(work(Some("/"), "/tmp/x/y", &[]), (at("/tmp/x/y"), true));
    assert_eq!(work(Some("/"), "/run/user/1", &[]), (at("/run/user/1"), true));
    assert_eq!(work(Some("/"), "/tmp/x/y", &["/tmp/x"]), (at("/tmp/x/y"), false));
    assert_eq!(work(Some("/"), "/tmp", &[]), (at("/tmp"), false));
    assert_eq!(work(Some("/"), "/tmpfiles", &[]), (at("/tmpfiles"), false));
    // Processes and devices of the host's are not there.
    assert_eq!(work(Some("/"), "/proc/1", &[]), (at("/"), false));
    assert_eq!(work(Some("/srv/tree"), "/tmp/x", &[]), (at("/"), false));
}

#[test]
fn what_is_writable_is_at_its_own_path_and_what_is_in_it_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let outer = folder.path().canonicalize().unwrap();
    let inner = outer.join("inner");
    std::fs::create_dir(&inner).unwrap();
    let mut files = files(None, "/", &[]);
    files.add_writable(&[inner.join("."), outer.clone(), inner.clone()]).unwrap();
    let mounts = files.mounts();
    let targets: Vec<_> = mounts.iter().map(|mount| mount.target.clone()).collect();
    let path = |path: &Path| path.to_str().unwrap().as_bytes().to_vec();
    assert_eq!(targets, [path(&outer), path(&inner)]);
    assert!(mounts.iter().all(|mount| mount.access == Access::ReadWrite));
    assert!(mounts[0].tag != mounts[1].tag);
    let told = |path: &str| files_error(&[path.into()]);
    assert!(told("/").contains("all that there is"), "{}", told("/"));
    assert!(told("/nowhere").contains("cannot share '/nowhere': no such file"));
    assert!(told("/etc/passwd").contains("it is no folder"));
}

fn files_error(rw: &[PathBuf]) -> String {
    files(None, "/", &[]).add_writable(rw).unwrap_err().to_string()
}
