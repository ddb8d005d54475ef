//! A project compiled by the system's C++ compiler, and run on the interpreter's arguments.

use crate::project::Argument;
use crate::{HardwareError, Project};
use lathe_ir::tensor::Memory;
use lathe_ir::{read_bits, write_bits};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A compiled testbench.
#[derive(Clone, Debug)]
pub struct Simulation {
    program: PathBuf,
    arguments: Vec<Argument>,
}

impl Simulation {
    /// Writes a project to a folder and compiles it with the headers of another one. `CXX` names the compiler, else `g++`.
    pub fn build(project: &Project, folder: &Path, headers: &Path) -> Result<Simulation, HardwareError> {
        project.write(folder)?;
        let compiler = std::env::var("CXX").ok().filter(|c| !c.is_empty()).unwrap_or_else(|| "g++".into());
        let program = folder.join("testbench");
        let output = Command::new(&compiler)
            .args(["-std=c++14", "-O1", "-w", "-isystem"])
            .arg(headers)
            .arg(folder.join("testbench.cpp"))
            .arg("-o")
            .arg(&program)
            .output()
            .map_err(|e| HardwareError::Missing { program: compiler, message: e.to_string() })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let error = said.lines().find(|l| l.contains("error")).or(said.lines().next());
            return Err(HardwareError::Compile { message: error.unwrap_or_default().to_owned() });
        }
        Ok(Simulation { program, arguments: project.arguments.clone() })
    }

    /// Runs the kernel on some memory, as the interpreter does.
    pub fn run(&self, memory: &mut Memory) -> Result<(), HardwareError> {
        let fail = |message: String| HardwareError::Simulation { message };
        let mut input = String::new();
        for a in &self.arguments {
            let bytes = memory
                .params
                .get(a.name.as_str())
                .ok_or_else(|| fail(format!("'{}' was not passed", a.name)))?;
            for i in 0..a.elements {
                let bits = read_bits(bytes, i * a.bits, a.bits);
                let bits = bits.ok_or_else(|| fail(format!("'{}' has too little storage", a.name)))?;
                writeln!(input, "{bits:x}").expect("a string takes all");
            }
        }
        let missing = |e: std::io::Error| fail(e.to_string());
        let mut child = Command::new(&self.program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(missing)?;
        // The testbench reads everything before it prints, so neither side waits for the other.
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).map_err(missing)?;
        }
        let output = child.wait_with_output().map_err(missing)?;
        if !output.status.success() {
            return Err(fail(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let mut lines = said.lines();
        for a in self.arguments.iter().filter(|a| a.is_result) {
            let bytes = memory.params.get_mut(a.name.as_str()).expect("read above");
            for i in 0..a.elements {
                let line = lines.next().unwrap_or_default();
                let bits = u64::from_str_radix(line, 16).map_err(|_| fail(format!("it says '{line}'")))?;
                write_bits(bytes, i * a.bits, a.bits, bits).expect("was read from here");
            }
        }
        // The streams' model complains when something is left in one.
        lines.next().map_or(Ok(()), |line| Err(fail(format!("it says '{line}'"))))
    }
}
