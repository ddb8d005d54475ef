//! Telling whoever waits: a bar on a terminal; elsewhere one line, and only for what takes over two seconds.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lathe_engine::Stage;
use lathe_models::{Progress, TerminalProgress};

use crate::output;

/// What takes longer is worth a line.
const LONG: Duration = Duration::from_secs(2);

/// What takes less is not worth a bar that flickers by.
const MOMENT: Duration = Duration::from_millis(300);

/// Shows what a download, a load or anything else that is counted is doing; clears it when dropped.
pub struct Status {
    started: Instant,
    terminal: bool,
    /// What is being done, while nothing was said of it.
    unsaid: Option<String>,
    download: TerminalProgress,
    counted: Option<(&'static str, ProgressBar)>,
}

impl Status {
    /// Nothing is being done yet.
    pub fn new() -> Status {
        let terminal = stderr().is_terminal();
        Status {
            started: Instant::now(),
            terminal,
            unsaid: None,
            download: TerminalProgress::default(),
            counted: None,
        }
    }

    /// `done` of `total` parts of a stage of loading are done.
    pub fn stage(&mut self, stage: Stage, done: usize, total: usize) {
        self.count(stage.describe(), done, total);
    }

    /// `done` of `total` parts of something are done.
    pub fn count(&mut self, what: &'static str, done: usize, total: usize) {
        if self.terminal {
            self.bar(what, done as u64, total as u64);
        } else if self.counted.as_ref().is_none_or(|(shown, _)| *shown != what) {
            self.counted = Some((what, ProgressBar::hidden()));
            self.unsaid = Some(what.to_owned());
        } else {
            self.say();
        }
    }

    fn bar(&mut self, what: &'static str, done: u64, total: u64) {
        if self.started.elapsed() < MOMENT {
            return;
        }
        if self.counted.as_ref().is_none_or(|(shown, _)| *shown != what) {
            self.clear();
            let bar = ProgressBar::new(total);
            let form = "{msg} [{bar:30}] {pos} of {len}";
            let style = ProgressStyle::with_template(form).expect("the template is valid");
            bar.set_style(style.progress_chars("=> "));
            bar.set_message(what);
            self.counted = Some((what, bar));
        }
        if let Some((_, bar)) = &self.counted {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    fn say(&mut self) {
        if self.started.elapsed() > LONG
            && let Some(what) = self.unsaid.take()
        {
            output::message(&format!("{what} ..."));
        }
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.counted.take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Status {
    fn begin(&mut self, what: &str, total: Option<u64>) {
        match self.terminal {
            true => self.download.begin(what, total),
            false => self.unsaid = Some(what.to_owned()),
        }
    }

    fn advance(&mut self, done: u64) {
        match self.terminal {
            true => self.download.advance(done),
            false => self.say(),
        }
    }

    fn end(&mut self) {
        self.download.end();
        self.unsaid = None;
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        self.download.end();
        self.clear();
    }
}

/// Shows how far tuning is; cleared when dropped.
pub struct Trials {
    started: Instant,
    bar: ProgressBar,
    told: Option<Instant>,
}

impl Trials {
    /// Nothing was tried yet.
    pub fn new() -> Trials {
        let bar = if stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos} of {len} trials, {eta} left");
        bar.set_style(style.expect("the template is valid").progress_chars("=> "));
        Trials { started: Instant::now(), bar, told: None }
    }

    /// So far.
    pub fn show(&mut self, p: &lathe_tune::Progress<'_>) {
        let ((done, most), (rule, now)) = (p.trials, p.seconds);
        self.bar.set_length(most as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(format!("{:.2}x", rule / now));
        // Where there is no terminal, a line now and then.
        let late = self.told.map_or(self.started.elapsed() > LONG, |t| t.elapsed() > 10 * LONG);
        if self.bar.is_hidden() && late {
            self.told = Some(Instant::now());
            output::message(&format!("{done} of {most} trials, {:.2}x as fast; now {}", rule / now, p.name));
        }
    }
}

impl Drop for Trials {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Shows how far fuzzing is; cleared when dropped.
pub struct Fuzzing {
    bar: ProgressBar,
    told: Instant,
}

impl Fuzzing {
    /// Nothing was run yet.
    pub fn new(time: Duration) -> Fuzzing {
        let bar =
            if stderr().is_terminal() { ProgressBar::new(time.as_secs()) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("[{bar:30}] {pos} of {len} s, {msg}");
        bar.set_style(style.expect("the template is valid").progress_chars("=> "));
        Fuzzing { bar, told: Instant::now() }
    }

    /// So far.
    pub fn show(&mut self, p: &lathe_fuzz::Progress<'_>) {
        let lathe_fuzz::Progress::Runs(o) = p else {
            self.bar.set_message("building the instrumented program");
            return output::message("building the instrumented program ...");
        };
        let edges = o.coverage.last().map_or(0, |p| p.edges);
        let what = format!("{} cases, {edges} edges, {} findings", o.counts.cases, o.findings.len());
        self.bar.set_position(o.seconds as u64);
        self.bar.set_message(what.clone());
        // Where there is no terminal, a line now and then.
        if self.bar.is_hidden() && self.told.elapsed() > 10 * LONG {
            self.told = Instant::now();
            output::message(&format!("{:.0} s: {what}", o.seconds));
        }
    }
}

impl Drop for Fuzzing {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
