//! Telling whoever waits what a download is doing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Is told of each step of a download.
pub trait Progress {
    /// A step begins; `total` bytes, where that is known.
    fn begin(&mut self, what: &str, total: Option<u64>);
    /// So many bytes of the step are done.
    fn advance(&mut self, done: u64);
    /// The step is over.
    fn end(&mut self);
}

/// Shows nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: &str, _: Option<u64>) {}
    fn advance(&mut self, _: u64) {}
    fn end(&mut self) {}
}

/// A bar, or a spinner where no size is known, on standard error; nothing where that is no terminal.
#[derive(Debug, Default)]
pub struct TerminalProgress(Option<ProgressBar>);

impl Progress for TerminalProgress {
    fn begin(&mut self, what: &str, total: Option<u64>) {
        self.end();
        let (bar, form) = match total {
            Some(total) => (ProgressBar::new(total), "{msg} [{bar:30}] {bytes} of {total_bytes}, {eta} left"),
            None => (ProgressBar::new_spinner(), "{spinner} {msg} ({elapsed})"),
        };
        bar.set_style(
            ProgressStyle::with_template(form).expect("the template is valid").progress_chars("=> "),
        );
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        self.0 = Some(bar);
    }

    fn advance(&mut self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(done);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}
