//! Takes the browser client of Socket.IO from npm into the binary.
//!
//! `npm ci` with the committed lock file, in the build's own directory. Where npm is missing or fails, the server is built
//! without the library and says so at run time; the next build tries again. `DUET_BUILD_CLIENT` names the package's directory
//! where something else has fetched it.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const LIBRARY: &[&str] = &["socket.io.js", "socket.io.min.js", "socket.io.esm.min.js"];

fn main() {
    println!("cargo::rerun-if-changed=package.json");
    println!("cargo::rerun-if-changed=package-lock.json");
    println!("cargo::rerun-if-changed=public");
    println!("cargo::rerun-if-env-changed=DUET_BUILD_NPM");
    println!("cargo::rerun-if-env-changed=DUET_BUILD_CLIENT");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let generated = out.join("client_library.rs");
    let source = match env::var_os("DUET_BUILD_CLIENT") {
        // Whoever names it wants it: a build without it would be a surprise.
        Some(package) => embed(Path::new(&package)).unwrap_or_else(|why| panic!("DUET_BUILD_CLIENT: {why}")),
        None => fetch(&out).and_then(|package| embed(&package)).unwrap_or_else(|why| without(&out, &why)),
    };
    fs::write(generated, source).expect("OUT_DIR can be written");
}

/// Installs the package, and tells where it is.
fn fetch(out: &Path) -> Result<PathBuf, String> {
    let at = out.join("npm");
    fs::create_dir_all(&at).map_err(|error| error.to_string())?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(file, at.join(file)).map_err(|error| format!("{file}: {error}"))?;
    }
    let npm = env::var("DUET_BUILD_NPM").unwrap_or_else(|_| "npm".into());
    let output = Command::new(&npm)
        .args(["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(&at)
        .output()
        .map_err(|error| format!("{npm}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("npm ci failed: {}", said.lines().next().unwrap_or("no message")));
    }
    Ok(at.join("node_modules/socket.io-client"))
}

/// The source text that takes the files in.
fn embed(package: &Path) -> Result<String, String> {
    let manifest = fs::read_to_string(package.join("package.json")).map_err(|error| error.to_string())?;
    let version = manifest
        .lines()
        .find_map(|line| line.trim().strip_prefix("\"version\": \"")?.strip_suffix("\","))
        .ok_or("socket.io-client names no version")?;
    let mut source = format!("const VERSION_TAG: &str = \"\\\"{version}\\\"\";\nstatic FILES: &[File] = &[\n");
    for name in LIBRARY.iter().flat_map(|name| [(*name).to_owned(), format!("{name}.map")]) {
        let path = package.join("dist").join(&name);
        if !path.is_file() {
            return Err(format!("socket.io-client has no dist/{name}"));
        }
        let path = path.to_str().ok_or("the build's directory has a name that is no text")?;
        let _ = writeln!(source, "    File {{ name: {name:?}, bytes: include_bytes!({path:?}) }},");
    }
    source.push_str("];\n");
    Ok(source)
}

/// The source text of a build without the library.
fn without(out: &Path, why: &str) -> String {
    println!("cargo::warning=built without the Socket.IO browser client, which npm should have fetched ({why})");
    // A file that never exists makes cargo run this again next time.
    println!("cargo::rerun-if-changed={}", out.join("never").display());
    "const VERSION_TAG: &str = \"\";\nstatic FILES: &[File] = &[];\n".into()
}
