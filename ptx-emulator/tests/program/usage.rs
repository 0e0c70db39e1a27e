//! Arguments, options and wrong usage.

use super::{Folder, kernel, program, run};

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Stores one parameter of a type.
fn one(ty: &str, register: &str) -> String {
    format!(
        ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry one(.param .{ty} x, .param .u64 out) {{\n\
         .reg .{register} %x; .reg .b64 %rd0; ld.param.{ty} %x, [x]; ld.param.u64 %rd0, [out]; st.global.{ty} [%rd0], %x; ret; }}\n"
    )
}

#[test]
fn each_kind_of_argument() {
    let folder = Folder::new();
    let zeros = folder.write("z.bin", &[0; 8]);
    let out = folder.path("out.bin");
    let buffer = format!("buf:{zeros}={out}");
    let cases: [(&str, &str, &str, &[u8]); 14] = [
        ("u32", "b32", "u32:7", &7u32.to_le_bytes()),
        ("u32", "b32", "u32:4294967295", &[255; 4]),
        ("u32", "b32", "u32:0x10", &16u32.to_le_bytes()),
        ("s32", "b32", "i32:-1", &(-1i32).to_le_bytes()),
        ("s32", "b32", "i32:-2147483648", &i32::MIN.to_le_bytes()),
        ("u64", "b64", "u64:18446744073709551615", &[255; 8]),
        ("s64", "b64", "i64:-5", &(-5i64).to_le_bytes()),
        ("f32", "f32", "f32:1.5", &1.5f32.to_le_bytes()),
        ("f32", "f32", "f32:-inf", &f32::NEG_INFINITY.to_le_bytes()),
        ("f32", "f32", "f32:1e-3", &1e-3f32.to_le_bytes()),
        ("f64", "f64", "f64:-2.25", &(-2.25f64).to_le_bytes()),
        ("b16", "b16", "f16:1.5", &[0x00, 0x3E]),
        ("b16", "b16", "bf16:1.5", &[0xC0, 0x3F]),
        ("u8", "b16", "u8:200", &[200]),
    ];
    for (ty, register, argument, expected) in cases {
        let file = folder.write("one.ptx", one(ty, register).as_bytes());
        let told = program(&[
            "run", &file, "--kernel", "one", "--grid", "1,1,1", "--block", "1,1,1", "--arg", argument,
            "--arg", &buffer,
        ]);
        assert_eq!(told.status.code(), Some(0), "{argument}: {}", text(&told));
        assert_eq!(std::fs::read(&out).unwrap()[..expected.len()], *expected, "{argument}");
    }
}

#[test]
fn wrong_usage_is_2_and_says_what_is_wrong() {
    let folder = Folder::new();
    let file = folder.write("one.ptx", one("u32", "b32").as_bytes());
    let zeros = format!("buf:{}", folder.write("z.bin", &[0; 8]));
    let shape = ["--grid", "1", "--block", "1"];
    let go = |kernel: &str, shape: &[&str], arguments: &[&str]| {
        let mut all = vec!["run", file.as_str(), "--kernel", kernel];
        all.extend(shape);
        arguments.iter().for_each(|a| all.extend(["--arg", a]));
        let told = program(&all);
        assert_eq!(told.status.code(), Some(2), "{all:?}: {}", text(&told));
        text(&told)
    };
    for (arguments, says) in [
        (&["u32:1"][..], "CUDA_ERROR_INVALID_VALUE"),
        (&["u32:1", &zeros, &zeros], "takes 2 arguments, 3 given"),
        (&[], "takes 2 arguments, 0 given"),
        (&["u32:-1", &zeros], "not in 0..=4294967295"),
        (&["u32:4294967296", &zeros], "not in"),
        (&["u32:x", &zeros], "u32:x"),
        (&["u32", &zeros], "expected KIND:VALUE"),
        (&["int:4", &zeros], "no kind 'int'"),
        (&["u64:4", &zeros], "parameter 'x' has 4"),
        (&["f32:one", &zeros], "f32:one"),
        (&["u32:1", "buf:/nowhere/in.bin"], "/nowhere/in.bin"),
    ] {
        let told = go("one", &shape, arguments);
        assert!(told.contains(says), "{arguments:?}: {told}");
    }
    assert!(go("two", &shape, &["u32:1", &zeros]).contains("there are: one"));
    for shape in [
        &["--grid", "1,2,3,4", "--block", "1"][..],
        &["--grid", "x", "--block", "1"],
        &["--grid", "1"],
        &["--grid", "1", "--block", "-1"],
    ] {
        go("one", shape, &["u32:1", &zeros]);
    }
    for more in [
        &["--gpu", "voodoo"][..],
        &["--order", "sideways"],
        &["--order", "random:x"],
        &["--nonsense"],
        &["--shared", "-4"],
    ] {
        let all: Vec<&str> = shape.iter().chain(more).copied().collect();
        go("one", &all, &["u32:1", &zeros]);
    }
    for all in [
        &["run"][..],
        &[],
        &["walk"],
        &["run", "/nowhere.ptx", "--kernel", "k", "--grid", "1", "--block", "1"],
    ] {
        assert_eq!(program(all).status.code(), Some(2), "{all:?}");
    }
    assert_eq!(program(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_text_that_is_no_ptx_is_refused_with_the_drivers_code_and_a_report() {
    let good = kernel("", "st.global.u32 [%rd3], %r0;");
    for (text, code, line, says) in [
        (good[..good.len() / 2].to_owned(), "CUDA_ERROR_INVALID_PTX", None, ""),
        (String::new(), "CUDA_ERROR_INVALID_PTX", None, ".version"),
        ("\u{0}\u{1}binary".into(), "CUDA_ERROR_INVALID_PTX", None, ""),
        (good.replace("8.0", "99.0"), "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", Some(1), "99.0"),
        (good.replace("sm_80", "sm_banana"), "CUDA_ERROR_INVALID_PTX", None, "sm_banana"),
        (
            good.replace("st.global.u32 [%rd3], %r0;", "st.global.u32 [%rd3], %nobody;"),
            "CUDA_ERROR_INVALID_PTX",
            Some(17),
            "%nobody",
        ),
        (
            good.replace("st.global.u32 [%rd3], %r0;", "bra NOWHERE;"),
            "CUDA_ERROR_INVALID_PTX",
            Some(17),
            "NOWHERE",
        ),
        (
            good.replace("st.global.u32 [%rd3], %r0;", "frobnicate.u32 %r0, %r1;"),
            "CUDA_ERROR_INVALID_PTX",
            Some(17),
            "frobnicate",
        ),
        (
            good.replace("st.global.u32 [%rd3], %r0;", "@%q bra L; L:"),
            "CUDA_ERROR_INVALID_PTX",
            Some(17),
            "%q",
        ),
        (good.replace("sm_80", "sm_100"), "CUDA_ERROR_NO_BINARY_FOR_GPU", None, "sm_100"),
    ] {
        let told = run(&text, "1", "32", "forward", &[]);
        assert_eq!(told.code, 2, "{}", told.text);
        assert!(told.text.contains(code) && told.text.contains(says), "{code}: {}", told.text);
        let finding = &told.report["findings"][0];
        assert_eq!(finding["kind"], "module", "{}", told.report);
        assert!(
            finding["message"].as_str().is_some_and(|m| m.contains(says) && m.contains(code)),
            "{finding}"
        );
        if let Some(line) = line {
            assert_eq!(finding["line"], line, "{}", told.text);
        }
    }
}

#[test]
fn a_launch_beyond_the_gpu_is_a_finding() {
    let text = kernel("", "st.global.u32 [%rd3], %r0;");
    let shared = kernel(".shared .b8 s[60000];", "st.shared.u32 [s], 0;");
    let registers =
        text.replace("(.param .u64 p, .param .u64 q)", "(.param .u64 p, .param .u64 q) .maxntid 64, 1, 1");
    for (text, grid, block, more, code, says) in [
        (&text, "1", "2048", &[][..], "CUDA_ERROR_INVALID_VALUE", "2048 threads"),
        (&text, "1", "1,1,65", &[], "CUDA_ERROR_INVALID_VALUE", "65"),
        (&text, "1", "0", &[], "CUDA_ERROR_INVALID_VALUE", "0"),
        (&text, "1,70000", "32", &[], "CUDA_ERROR_INVALID_VALUE", "65535"),
        (&text, "1", "32", &["--shared", "300000"], "CUDA_ERROR_INVALID_VALUE", "300000"),
        (&shared, "1", "32", &[], "CUDA_ERROR_INVALID_VALUE", "60000"),
        (&registers, "1", "128", &[], "CUDA_ERROR_INVALID_VALUE", ".maxntid"),
        (&text, "3", "32", &["--cluster", "2"], "CUDA_ERROR_", "cluster"),
        (&text, "100000", "1024", &["--cooperative"], "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "blocks"),
    ] {
        let told = run(text, grid, block, "forward", more);
        assert_eq!(told.code, 3, "{grid} {block} {more:?}: {}", told.text);
        let finding = &told.report["findings"][0];
        assert_eq!(finding["kind"], "resource", "{}", told.report);
        let message = finding["message"].as_str().unwrap_or_default();
        assert!(message.contains(says) && message.contains(code), "{grid} {block} {more:?}: {message}");
    }
}

#[test]
fn the_report_has_the_fields_of_the_manual() {
    let told = run(&kernel("", "st.global.u32 [%rd3+1024], %r0;"), "2,1,1", "32,1,1", "forward", &[]);
    assert_eq!(told.code, 3);
    let finding = &told.report["findings"][0];
    for field in ["kind", "kernel", "line", "block", "thread", "address", "message"] {
        assert!(!finding[field].is_null(), "{field}: {finding}");
    }
    assert_eq!((&finding["kind"], &finding["line"]), (&"bounds".into(), &17.into()));
    assert_eq!(finding["error"], "IllegalAddress");
    assert!(told.text.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{}", told.text);
    let counters = told.report["counters"].as_array().unwrap();
    let store = counters.iter().find(|c| c["line"] == 11).unwrap();
    assert!(store["issues"].as_u64().is_some_and(|n| n > 0), "{store}");
}

#[test]
fn counters_by_line() {
    let text = kernel(
        ".shared .align 4 .b8 s[4096];",
        "mov.u32 %r1, s; shl.b32 %r2, %r0, 7; add.u32 %r3, %r1, %r2; and.b32 %r3, %r3, 4095;
    st.shared.u32 [%r3], 1;
    st.global.u32 [%rd3], %r0;",
    );
    let told = run(&text, "2", "32", "forward", &["--without", "race"]);
    let counters = told.report["counters"].as_array().unwrap().clone();
    let at = |line: u64| counters.iter().find(|c| c["line"] == line).unwrap().clone();
    let shared = at(18);
    assert_eq!((&shared["issues"], &shared["lanes"]), (&2.into(), &64.into()));
    assert_eq!(
        (&shared["wavefronts"], &shared["ideal_wavefronts"]),
        (&64.into(), &2.into()),
        "all in one bank"
    );
    assert_eq!((&at(19)["sectors"], &at(19)["ideal_sectors"]), (&8.into(), &8.into()));
}

#[test]
fn checks_can_be_turned_off_and_unknown_ones_are_told() {
    let text = kernel("", "ld.global.u32 %r1, [%rd0+2]; st.global.u32 [%rd1], %r5;");
    assert_eq!(
        run(&text, "1", "1", "forward", &["--without", "misaligned", "--without", "registers"]).code,
        0
    );
    let told = run(&text, "1", "1", "forward", &["--without", "gravity"]);
    assert_eq!(told.code, 2);
    assert!(told.text.contains("gravity") && told.text.contains("lane-race"), "{}", told.text);
}

#[test]
fn an_empty_buffer_and_a_buffer_given_twice() {
    let folder = Folder::new();
    let file = folder.write("k.ptx", kernel("", "st.global.u32 [%rd3], %r0;").as_bytes());
    let (empty, out) = (folder.write("e.bin", &[]), folder.path("o.bin"));
    let (a, b) = (format!("buf:{empty}"), format!("buf:{empty}={out}"));
    let told =
        program(&["run", &file, "--kernel", "k", "--grid", "1", "--block", "1", "--arg", &a, "--arg", &b]);
    assert_eq!(told.status.code(), Some(3), "the store is outside of it: {}", text(&told));
}
