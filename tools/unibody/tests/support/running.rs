//! [`Running`]: a guest that a test goes on beside.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A guest that goes on meanwhile; killed at the end.
pub struct Running {
    /// The program.
    pub child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts it.
    pub fn start(mut command: Command) -> Running {
        command.stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Running { child, output }
    }

    /// The next line that the guest's command says.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("readable");
        line
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
