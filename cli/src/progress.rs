//! A progress bar, on a terminal alone: in a log file it would be litter.

use crate::output::note;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// The bar of one job, or nothing.
pub struct Progress {
    bar: Option<ProgressBar>,
    /// Pictures that are done, and all of them.
    done: u64,
    items: u64,
    /// Pictures of the present part.
    part: u64,
    /// What to say once something is computed: an error before that is then all there is on stderr.
    announce: Option<String>,
}

/// The bar counts thousandths of a picture.
const PARTS: u64 = 1000;

impl Progress {
    /// A bar over so many pictures, unless stderr is no terminal or `quiet`; `announce` is said when the first kernel is done.
    pub fn new(label: &str, items: usize, quiet: bool, announce: Option<String>) -> Self {
        let show = !quiet && std::io::stderr().is_terminal();
        let bar = show.then(|| {
            let bar = ProgressBar::with_draw_target(Some(items as u64 * PARTS), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg:>9} [{bar:40}] {percent:>3}% {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.set_message(label.to_owned());
            // So that the bar appears before the first part is done, while a large model is packed.
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Progress { bar, done: 0, items: items as u64, part: 0, announce }
    }

    /// The next so many pictures begin; those before are done. Call the result with what is done of them and the whole, in
    /// any unit.
    pub fn part(&mut self, items: usize) -> impl FnMut(u64, u64) + '_ {
        self.done += self.part;
        self.part = items as u64;
        move |done, total| {
            if let Some(text) = self.announce.take() {
                match &self.bar {
                    Some(bar) => bar.suspend(|| note(&text)),
                    None => note(&text),
                }
            }
            if let Some(bar) = &self.bar {
                let part = self.part * PARTS * done.min(total) / total.max(1);
                bar.set_position((self.done * PARTS + part).min(self.items * PARTS));
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
