//! A place to work at: a folder, models, and the binary.

use std::ffi::OsStr;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use corallite::weights::{Dtype, WeightTensor, safetensors};
use serde_json::Value;
use tempfile::TempDir;

/// What a run of the binary came to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let done = Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        assert!(!done.err.contains("panicked"), "{done:?}");
        done
    }
}

impl Done {
    /// It worked and had nothing to complain about; this is what it printed.
    pub(crate) fn ok(self) -> String {
        assert!(self.code == Some(0) && self.err.is_empty(), "{self:?}");
        self.out
    }

    /// It worked; this is the JSON it printed.
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// It was refused with this code and printed nothing but one sentence, which is returned.
    pub(crate) fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.out.is_empty(), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("error: ") && self.err.len() > 20, "{self:?}");
        self.err
    }
}

pub(crate) struct Bench {
    folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// With a store `models.h5` that has the checkpoint `base` of `base.safetensors`.
    pub(crate) fn with_store() -> Self {
        let bench = Self::new();
        bench.model("base", &["a", "b", "c"]);
        bench.run(["add", "models.h5", "base.safetensors"]).ok();
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// The names of all files, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Makes `name.safetensors` of tensors with these names; the same name always has the same values.
    pub(crate) fn model(&self, name: &str, tensors: &[&str]) -> PathBuf {
        let tensors: Vec<_> = tensors
            .iter()
            .map(|name| WeightTensor::new(*name, vec![32, 64], Dtype::F32, noise(name, 32 * 64)).unwrap())
            .collect();
        self.write(name, &tensors)
    }

    /// Makes `name.safetensors` of one tensor with so many values.
    pub(crate) fn large_model(&self, name: &str, values: u64) -> PathBuf {
        let bytes = noise(name, values as usize);
        self.write(name, &[WeightTensor::new(name, vec![values], Dtype::F32, bytes).unwrap()])
    }

    pub(crate) fn write(&self, name: &str, tensors: &[WeightTensor]) -> PathBuf {
        let path = self.path(&format!("{name}.safetensors"));
        let metadata = [("format".to_owned(), "pt".to_owned())];
        safetensors::write(File::create(&path).unwrap(), tensors, &metadata).unwrap();
        path
    }

    fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corallite"));
        command.current_dir(self.folder.path()).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Done {
        self.command(arguments).output().unwrap().into()
    }

    /// Starts the binary.
    pub(crate) fn start<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a line of shell in which `$corallite` is the binary.
    pub(crate) fn shell(&self, line: &str) -> Done {
        let mut command = Command::new("sh");
        command.current_dir(self.folder.path()).args(["-c", line]).stdin(Stdio::null());
        command.env("corallite", env!("CARGO_BIN_EXE_corallite")).output().unwrap().into()
    }

    pub(crate) fn checkpoints(&self) -> Vec<String> {
        let listing = self.run(["ls", "models.h5", "--json"]).json();
        listing["checkpoints"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().into()).collect()
    }
}

/// Values between -1 and 1 that look random and depend on the seed alone.
fn noise(seed: &str, values: usize) -> Vec<u8> {
    let mut state = seed
        .bytes()
        .fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (0..values)
        .flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / 8_388_608.0 - 1.0).to_le_bytes()
        })
        .collect()
}
