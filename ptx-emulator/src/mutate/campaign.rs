//! Runs every mutant through the tests that should find it, on several threads.

use super::host::{Change, HostMutant, Rig};
use super::ptx::{self, PtxMutant};
use super::table::{Outcome, Table};
use super::{Caught, Kind, kind_name};
use crate::check::FindingKind;
use crate::decode::Module;
use crate::device::Options;
use crate::error::ModuleError;
use crate::gpu::Gpu;
use std::cell::RefCell;
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
    /// No new mutant is begun after this long; those left are counted as not run.
    pub budget: Duration,
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

impl Campaign {
    fn rig(&self, setting: &Options) -> Rig {
        let options = Options { threads: 1, ..setting.clone() };
        Rig::new(self.gpu.clone(), options)
    }

    /// Runs every mutant of the subject: of its PTX, then of the host code of its first cases.
    ///
    /// With `without`, only those mutants are run that in `before` were found by that check alone: what another check, a result
    /// or a hang found is found without it too.
    ///
    /// # Errors
    /// When the PTX is refused, or the subject fails with nothing broken.
    pub fn run(&self, subject: &Subject, without: Option<(&str, &Table)>) -> Result<Table, CampaignError> {
        let begun = Instant::now();
        let text = ptx::isolate(subject.ptx, subject.kernel)?;
        let whole = Module::parse(&text)?;
        // Nothing broken: must pass, and says how long a right run takes and what the host does.
        let mut budget = 0;
        let mut host = Vec::new();
        for (index, case) in subject.cases.iter().enumerate() {
            for (n, setting) in self.settings.iter().enumerate() {
                let rig = Arc::new(self.rig(setting).broken(Some(whole.clone()), None, u64::MAX));
                trial(case, &rig).map_err(|caught| CampaignError::Broken {
                    kernel: subject.kernel.into(),
                    case: case.name.into(),
                    caught: caught.to_string(),
                })?;
                budget = budget.max(rig.most_issues());
                if n == 0 && index < subject.host_cases {
                    host.extend(rig.mutants(case.name).into_iter().map(|m| Mutant::Host(index, m)));
                }
            }
        }
        let mut list: Vec<Mutant> =
            ptx::mutants(&text, |f| f == subject.kernel)?.into_iter().map(Mutant::Ptx).collect();
        list.extend(host);
        let settings: Vec<Options> = match without {
            None => self.settings.clone(),
            Some((check, before)) => {
                list.retain(|m| before.only_found_by(m.id(), check));
                let off = |o: &Options| {
                    let mut o = o.clone();
                    if !o.checks.set(check, false) {
                        return Err(CampaignError::NoSuchCheck(check.to_owned()));
                    }
                    if check == "race" {
                        o.checks.set("lane-race", false);
                    }
                    Ok(o)
                };
                self.settings.iter().map(off).collect::<Result<_, _>>()?
            }
        };
        list.retain(|m| m.id().contains(&self.only));
        let list: Vec<Mutant> = list.into_iter().step_by(self.every.max(1)).collect();
        let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(mutant) = list.get(at) else { return };
                let result = if begun.elapsed() > self.budget {
                    None
                } else {
                    Some(self.judge(subject, &text, &whole, mutant, &settings, 8 * budget + 500_000))
                };
                let outcome = mutant.outcome(result);
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

    /// What finds a mutant first; `Ok` when nothing does.
    fn judge(
        &self,
        subject: &Subject,
        text: &str,
        whole: &Module,
        mutant: &Mutant,
        settings: &[Options],
        budget: u64,
    ) -> Result<(), Caught> {
        let (module, change, only): (Module, Option<Change>, Option<usize>) = match mutant {
            Mutant::Ptx(m) => match Module::parse(&m.apply(text)) {
                Ok(module) => (module, None, None),
                Err(e) => return Err(e.into()),
            },
            Mutant::Host(case, m) => (whole.clone(), Some(m.change.clone()), Some(*case)),
        };
        for (index, case) in subject.cases.iter().enumerate() {
            if only.is_some_and(|only| only != index) {
                continue;
            }
            for setting in settings {
                let rig = Arc::new(self.rig(setting).broken(Some(module.clone()), change.clone(), budget));
                trial(case, &rig)?;
            }
        }
        Ok(())
    }
}

impl Mutant {
    fn id(&self) -> &str {
        match self {
            Mutant::Ptx(m) => &m.id,
            Mutant::Host(_, m) => &m.id,
        }
    }

    fn outcome(&self, result: Option<Result<(), Caught>>) -> Outcome {
        let (kind, line, change): (Kind, Option<u32>, String) = match self {
            Mutant::Ptx(m) if m.becomes.is_empty() => (m.kind, Some(m.line), format!("{} removed", m.was)),
            Mutant::Ptx(m) => (m.kind, Some(m.line), format!("{} -> {}", m.was, m.becomes)),
            Mutant::Host(_, m) => (m.kind, None, m.message.clone()),
        };
        let change = change.split_whitespace().collect::<Vec<_>>().join(" ");
        let (detector, findings, message) = match &result {
            None => ("not run".into(), vec![], String::new()),
            Some(Ok(())) => ("survivor".into(), vec![], String::new()),
            Some(Err(caught)) => {
                let kinds: &[FindingKind] = match caught {
                    Caught::Findings(kinds, _) => kinds,
                    _ => &[],
                };
                let first = caught.to_string().lines().next().unwrap_or("").to_owned();
                (caught.detector(), kinds.iter().map(|k| kind_name(*k)).collect(), first)
            }
        };
        Outcome { id: self.id().to_owned(), kind, line, change, detector, findings, message }
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
    /// Not one of [`crate::Checks::NAMES`].
    #[error("there is no check '{0}'")]
    NoSuchCheck(String),
}
