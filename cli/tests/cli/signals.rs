//! Ctrl-C, closed pipes and full disks.

use crate::support::{Ran, golden_ids, names, pictures, program, refuse};
use selftok::Tokens;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_diffusion_between_steps_and_leaves_nothing() {
    for out in ["one.png", "folder"] {
        let dir = tempfile::tempdir().unwrap();
        let tokens = dir.path().join("t.npy");
        let count = if out == "folder" { 16 } else { 1 };
        Tokens::new(golden_ids()[..count].concat(), count, 64).unwrap().save(&tokens).unwrap();
        let child = program()
            .args(["decode", "--threads", "1", "--mode", "diffuse", "--steps", "1000", "-o"])
            .args([dir.path().join(out), tokens])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(700));
        let sent = Instant::now();
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!(ran.code, Some(130), "{ran:?}");
        assert!(ran.stderr.ends_with("selftok: interrupted; nothing was written\n"), "{ran:?}");
        assert!(sent.elapsed() < Duration::from_secs(3), "{:?}", sent.elapsed());
        assert_eq!(names(dir.path()), ["t.npy"]);
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_failure_and_no_panic() {
    let mut child = program()
        .args(["inspect", "--weights"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_and_nothing_stays() {
    let dir = tempfile::tempdir().unwrap();
    // Whoever writes to this device is told that the disk is full.
    let link = |name: &str| {
        let path = dir.path().join(name);
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        path
    };
    let picture = &pictures()[0];
    for name in ["t.npy", "t.json", "t.safetensors"] {
        let out = link(name);
        let args = ["encode".as_ref(), "-q".as_ref(), picture.as_os_str(), "-o".as_ref(), out.as_os_str()];
        refuse(dir.path(), args, &[name, "no space left on the disk"]);
    }
    let tokens = dir.path().join("ok.npy");
    Tokens::new(golden_ids()[0].clone(), 1, 64).unwrap().save(&tokens).unwrap();
    let out = link("p.png");
    let args = ["decode".as_ref(), "-q".as_ref(), tokens.as_os_str(), "-o".as_ref(), out.as_os_str()];
    refuse(dir.path(), args, &["p.png", "no space left on the disk"]);
    let args = ["recon", "-q", "--steps", "2", "-o"].map(AsRef::as_ref).into_iter();
    refuse(
        dir.path(),
        args.chain([out.as_os_str(), picture.as_os_str()]),
        &["p.png", "no space left on the disk"],
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_stdout_is_a_failure() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran: Ran = program().arg("inspect").stdout(full()).stderr(Stdio::piped()).output().unwrap().into();
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.starts_with("selftok: error: stdout: cannot be written: No space left"), "{ran:?}");
    // Nobody can be told here, but the exit code still says it.
    let ran: Ran = program().arg("inspect").stdout(full()).stderr(full()).output().unwrap().into();
    assert_eq!(ran.code, Some(1));
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let picture = pictures()[0].clone();
    let missing = dir.path().join("no/such/t.npy");
    let encode = ["encode".as_ref(), picture.as_os_str(), "-o".as_ref()];
    refuse(
        dir.path(),
        encode.into_iter().chain([missing.as_os_str()]),
        &["no/such/t.npy", "does not exist; create it first"],
    );
    let exe = dir.path().join("t.exe");
    refuse(
        dir.path(),
        encode.into_iter().chain([exe.as_os_str()]),
        &["t.exe", "end in .npy, .json or .safetensors"],
    );
    let folder = dir.path().join("folder.npy");
    std::fs::create_dir(&folder).unwrap();
    refuse(
        dir.path(),
        encode.into_iter().chain([folder.as_os_str()]),
        &["folder.npy: is a folder; name a file"],
    );
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let tokens = dir.path().join("t.npy");
    Tokens::new(golden_ids()[..2].concat(), 2, 64).unwrap().save(&tokens).unwrap();
    let decode = ["decode".as_ref(), tokens.as_os_str(), "-o".as_ref(), file.as_os_str()];
    refuse(dir.path(), decode, &["file: is a file; name a folder"]);
    // /proc takes no files, not even from root.
    if cfg!(target_os = "linux") {
        refuse(
            dir.path(),
            encode.into_iter().chain(["/proc/t.npy".as_ref()]),
            &["/proc/t.npy: cannot be written there"],
        );
        let decode = ["decode".as_ref(), tokens.as_os_str(), "-o".as_ref(), "/proc/out".as_ref()];
        refuse(dir.path(), decode, &["/proc/out: cannot be written there"]);
    }
}
