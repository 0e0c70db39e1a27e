//! Runs every mutant through the tests that should find it, on several threads.

use super::host::{Change, HostMutant, Rig};
use super::ptx::{self, PtxMutant};
use super::table::{NOT_RUN, Outcome, SURVIVOR, Table};
use super::{Caught, Kind};
use crate::decode::Module;
use crate::device::Options;
use crate::error::ModuleError;
use crate::gpu::Gpu;
use std::cell::RefCell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

/// What a case runs.
pub type Test<'a> = Box<dyn Fn(&Arc<Rig>) + Sync + Send + 'a>;

/// A test: does its work through the rig, and panics (with a [`Caught`], or by an assertion) where something is wrong.
pub struct Case<'a> {
    /// Its name in ids of host mutants.
    pub name: &'a str,
    /// The test.
    pub run: Test<'a>,
}

/// A kernel and the tests that run it. Put those first that are cheap and find much.
pub struct Subject<'a> {
    /// Kernel name.
    pub kernel: &'a str,
    /// The PTX that has it.
    pub ptx: &'a str,
    /// How many of the tests, from the first on, have their host code broken: one that uses every argument is enough.
    pub host_cases: usize,
    /// Its tests.
    pub cases: Vec<Case<'a>>,
}

/// How mutants are run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The GPU.
    pub gpu: Gpu,
    /// What a GPU leaves open, one way after the other: orders, approximations, accumulations.
    pub settings: Vec<Options>,
    /// Worker threads; 0 takes the machine's cores.
    pub threads: usize,
    /// Run only the mutants whose id has this in it; empty for all.
    pub only: String,
    /// Run every n-th mutant only.
    pub every: usize,
    /// Whether to look on once something was found.
    pub depth: Depth,
    /// No new mutant is begun after this long; those left are counted as not run.
    pub budget: Duration,
}

/// How much is asked of each mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What finds it first.
    First,
    /// All that finds it: it is run through all cases, and again with the checks off that spoke, until nothing new speaks. A check
    /// does not change what a kernel does, only where it ends, so each would find the mutant with all others off. (What lies out of
    /// bounds is never touched, check or no check: such a read gives 0.)
    All,
}

/// A mutant of either kind.
#[derive(Clone, Debug)]
enum Mutant {
    Ptx(PtxMutant),
    Host(usize, HostMutant),
}

thread_local! {
    /// Where the last panic of this thread came from; `None` while panics are to be printed.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Keeps expected panics off the terminal and remembers where they came from.
fn quiet() {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(|l| format!("{}:{}", l.file(), l.line()));
            let kept = PANIC.with(|p| p.borrow_mut().as_mut().map(|p| *p = place.unwrap_or_default()));
            if kept.is_none() {
                before(info);
            }
        }));
    });
    PANIC.with(|p| *p.borrow_mut() = Some(String::new()));
}

fn loud() {
    PANIC.with(|p| *p.borrow_mut() = None);
}

/// Runs a test and says what it found.
fn trial(case: &Case, rig: &Arc<Rig>) -> Result<(), Caught> {
    quiet();
    let result = catch_unwind(AssertUnwindSafe(|| (case.run)(rig)));
    let place = PANIC.with(|p| p.borrow().clone()).unwrap_or_default();
    loud();
    result.map_err(|payload| match payload.downcast::<Caught>() {
        Ok(caught) => *caught,
        Err(payload) => {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let text = text.unwrap_or_else(|| "a panic".into());
            let here = file!().rsplit_once("mutate").map_or("", |p| p.0);
            if place.starts_with(here) && !here.is_empty() {
                Caught::Crash(format!("{place}: {text}"))
            } else {
                Caught::WrongResult(text)
            }
        }
    })
}

/// A case under a setting, as it goes with nothing broken.
struct Whole {
    case: usize,
    setting: usize,
    /// The lines that a launch of the subject's kernel issues.
    lines: HashSet<u32>,
    /// Warp instructions after which a launch counts as hung.
    budget: u64,
}

/// What finds a mutant: the case, and what it said; the first of each detector, in the order in which they came.
type Found = Vec<(usize, Caught)>;

impl Campaign {
    fn rig(&self, setting: &Options) -> Rig {
        let options = Options { threads: 1, ..setting.clone() };
        Rig::new(self.gpu.clone(), options)
    }

    /// Runs every mutant of the subject: of its PTX, then of the host code of its first cases.
    ///
    /// A mutant is run through all cases under the first setting, then under the next. A case that never comes to the line that
    /// is broken is left out: it would go as it goes with nothing broken.
    ///
    /// # Errors
    /// When the PTX is refused, or the subject fails with nothing broken.
    pub fn run(&self, subject: &Subject) -> Result<Table, CampaignError> {
        let begun = Instant::now();
        let text = ptx::isolate(subject.ptx, subject.kernel)?;
        let module = Module::parse(&text)?;
        let mut host = Vec::new();
        let mut plan = Vec::new();
        for (n, setting) in self.settings.iter().enumerate() {
            for (index, case) in subject.cases.iter().enumerate() {
                let rig = Arc::new(self.rig(setting).broken(Some(module.clone()), None, u64::MAX));
                trial(case, &rig).map_err(|caught| CampaignError::Broken {
                    kernel: subject.kernel.into(),
                    case: case.name.into(),
                    caught: caught.to_string(),
                })?;
                let budget = 8 * rig.most_issues() + 100_000;
                plan.push(Whole { case: index, setting: n, lines: rig.lines(subject.kernel), budget });
                if n == 0 && index < subject.host_cases {
                    host.extend(rig.mutants(case.name).into_iter().map(|m| Mutant::Host(index, m)));
                }
            }
        }
        let mut list: Vec<Mutant> =
            ptx::mutants(&text, |f| f == subject.kernel)?.into_iter().map(Mutant::Ptx).collect();
        list.extend(host);
        list.retain(|m| m.id().contains(&self.only));
        let list: Vec<Mutant> = list.into_iter().step_by(self.every.max(1)).collect();
        let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(mutant) = list.get(at) else { return };
                let in_time = begun.elapsed() <= self.budget;
                let found = in_time.then(|| self.judge(subject, &text, &module, mutant, &plan));
                let outcome = mutant.outcome(subject, found);
                outcomes.lock().unwrap_or_else(|e| e.into_inner()).push((at, outcome));
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if self.threads == 0 { cores } else { self.threads };
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        let mut outcomes = outcomes.into_inner().unwrap_or_else(|e| e.into_inner());
        outcomes.sort_by_key(|o| o.0);
        Ok(Table { outcomes: outcomes.into_iter().map(|o| o.1).collect() })
    }

    fn judge(&self, subject: &Subject, text: &str, whole: &Module, mutant: &Mutant, plan: &[Whole]) -> Found {
        let (module, change): (Module, Option<Change>) = match mutant {
            Mutant::Ptx(m) => match Module::parse(&m.apply(text)) {
                Ok(module) => (module, None),
                Err(e) => return vec![(0, e.into())],
            },
            Mutant::Host(_, m) => (whole.clone(), Some(m.change.clone())),
        };
        // A declaration has no instruction that could be counted.
        let line = match mutant {
            Mutant::Ptx(m) if whole.0.code.iter().any(|i| i.line == m.line) => Some(m.line),
            _ => None,
        };
        let concerns = |w: &&Whole| match mutant {
            Mutant::Ptx(_) => line.is_none_or(|line| w.lines.contains(&line)),
            Mutant::Host(case, _) => *case == w.case,
        };
        let mut found = Found::new();
        let mut off: Vec<&str> = Vec::new();
        for w in plan.iter().filter(concerns) {
            loop {
                let mut setting = self.settings[w.setting].clone();
                for check in &off {
                    setting.checks.set_detector(check, false);
                }
                let rig = self.rig(&setting).broken(Some(module.clone()), change.clone(), w.budget);
                let Err(caught) = trial(&subject.cases[w.case], &Arc::new(rig)) else { break };
                // A deadlock or a trap is always reported, a wrong result stays one.
                let mut checks: Vec<&str> = match &caught {
                    Caught::Findings(checks, _) => checks.clone(),
                    _ => vec![],
                };
                checks.retain(|check| setting.checks.set_detector(check, false) && !off.contains(check));
                if found.iter().all(|(_, before)| before.detector() != caught.detector()) {
                    found.push((w.case, caught));
                }
                if self.depth == Depth::First {
                    return found;
                }
                // Once more without the checks that spoke.
                if checks.is_empty() {
                    break;
                }
                off.extend(checks);
            }
        }
        found
    }
}

impl Mutant {
    fn id(&self) -> &str {
        match self {
            Mutant::Ptx(m) => &m.id,
            Mutant::Host(_, m) => &m.id,
        }
    }

    /// `None` for one that was not run.
    fn outcome(&self, subject: &Subject, found: Option<Found>) -> Outcome {
        let (kind, line, change): (Kind, Option<u32>, String) = match self {
            Mutant::Ptx(m) if m.becomes.is_empty() => (m.kind, Some(m.line), format!("{} removed", m.was)),
            Mutant::Ptx(m) => (m.kind, Some(m.line), format!("{} -> {}", m.was, m.becomes)),
            Mutant::Host(_, m) => (m.kind, None, m.message.clone()),
        };
        let change = change.split_whitespace().collect::<Vec<_>>().join(" ");
        let id = self.id().to_owned();
        let none = if found.is_some() { SURVIVOR } else { NOT_RUN };
        let found = found.unwrap_or_default();
        let mut detectors: Vec<String> = Vec::new();
        for (_, caught) in &found {
            match caught {
                Caught::Findings(checks, _) => detectors.extend(checks.iter().map(|c| (*c).to_owned())),
                _ => detectors.push(caught.detector()),
            }
        }
        let mut seen = HashSet::new();
        detectors.retain(|d| seen.insert(d.clone()));
        let (detector, message) = match found.first() {
            None => (none.into(), String::new()),
            Some((case, caught)) => {
                let case = if matches!(self, Mutant::Ptx(_)) { subject.cases[*case].name } else { "" };
                let text = caught.to_string();
                let line = text.lines().next().unwrap_or("");
                let colon = if case.is_empty() { "" } else { ": " };
                (caught.detector(), format!("{case}{colon}{line}"))
            }
        };
        Outcome { id, kind, line, change, detector, findings: detectors, message }
    }
}

/// Why a campaign cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// The PTX is refused.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// A test fails with nothing broken, so that it says nothing about mutants.
    #[error("{kernel}: the case '{case}' fails with nothing broken: {caught}")]
    Broken {
        /// Kernel.
        kernel: String,
        /// Case.
        case: String,
        /// What it found.
        caught: String,
    },
    /// A program that cannot be started, or is wrong with nothing broken.
    #[error("{0}")]
    Program(String),
}
