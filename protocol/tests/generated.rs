//! The generated code in `src/generated/` is what the Cap'n Proto compiler makes of `schema/`.

use std::fs;
use std::path::Path;

/// Words of the schema that are kept for introspection. Their layout belongs to the version of the compiler.
fn without_encoded_nodes(code: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in code.lines() {
        inside |= line.contains("static ENCODED_NODE");
        if !inside && !line.starts_with("// capnp binary version") {
            kept.push_str(line);
            kept.push('\n');
        }
        inside &= line.trim() != "];";
    }
    kept
}

fn compiler_version(code: &str) -> Option<&str> {
    code.lines().find(|line| line.starts_with("// capnp binary version"))
}

#[test]
fn generated_code_matches_the_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile::tempdir().expect("make a temporary folder");
    capnpc::CompilerCommand::new()
        .src_prefix(root.join("schema"))
        .file(root.join("schema/client.capnp"))
        .file(root.join("schema/node.capnp"))
        .default_parent_module(vec!["generated".into()])
        .output_path(fresh.path())
        .run()
        .expect(
            "run the `capnp` tool; Debian and Ubuntu have it in the package `capnproto`, \
             which `cargo xtask test` installs",
        );
    for name in ["client_capnp.rs", "node_capnp.rs"] {
        let made = fs::read_to_string(fresh.path().join(name)).expect("read fresh code");
        let checked_in = root.join("src/generated").join(name);
        if std::env::var_os("BLESS").is_some() {
            fs::write(&checked_in, &made).expect("write generated code");
        }
        let kept = fs::read_to_string(&checked_in).expect("read checked-in code");
        let same = if compiler_version(&made) == compiler_version(&kept) {
            made == kept
        } else {
            without_encoded_nodes(&made) == without_encoded_nodes(&kept)
        };
        assert!(same, "{name} is not made of the schema; `BLESS=1 cargo test -p millrace-protocol --test generated`");
    }
}
