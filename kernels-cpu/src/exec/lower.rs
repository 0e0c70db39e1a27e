//! Makes a step of the plan ready to run: operands become bases and strides, weights take their final form.

use super::BindError;
use super::context::{Fixed, Need, Region, Run};
use super::kernels;
use super::store::{Plain, Store};
use selftok_graph::{Place, Plan, Step};
use std::cell::RefCell;

/// A step ready to run.
pub(super) struct Ready {
    pub run: Box<dyn Run>,
    pub need: Need,
    /// Weights that `run` points into: held so that they live as long.
    _weights: Vec<Plain>,
}

/// The step being lowered, and where its weights come from.
pub(super) struct Lowering<'a> {
    pub plan: &'a Plan,
    pub step: &'a Step,
    pub threads: usize,
    /// Whether the step runs at bind, where constants deserve full precision.
    pub at_bind: bool,
    pub store: &'a RefCell<Store>,
    /// The constants, once they are computed.
    pub constants: Option<&'a [f32]>,
    weights: RefCell<Vec<Plain>>,
}

/// Scope and kernel of a step, as errors name it.
pub(super) fn step_name(step: &Step) -> String {
    match step.scope.as_str() {
        "" => step.kernel.name().to_string(),
        scope => format!("{scope}: {}", step.kernel.name()),
    }
}

impl<'a> Lowering<'a> {
    /// Lowers one step.
    ///
    /// # Errors
    /// If its operands do not lie as the kernels of this device need it, or its weights cannot be read.
    pub fn lower(
        plan: &'a Plan,
        step: &'a Step,
        threads: usize,
        constants: Option<&'a [f32]>,
        store: &'a RefCell<Store>,
    ) -> Result<Ready, BindError> {
        let at_bind = constants.is_none();
        let low = Lowering { plan, step, threads, at_bind, store, constants, weights: RefCell::default() };
        let (run, need) = kernels::lower(&low)?;
        Ok(Ready { run, need, _weights: low.weights.into_inner() })
    }

    /// Scope and kernel.
    pub fn name(&self) -> String {
        step_name(self.step)
    }

    /// The error of an operand that lies as no kernel can take it.
    pub fn layout(&self, operand: &'static str, reason: String) -> BindError {
        BindError::Layout { step: self.name(), operand, reason }
    }

    /// Keeps a weight alive for as long as the step, and says where it is.
    pub fn keep(&self, plain: Plain) -> *const u8 {
        let ptr = plain.rows().1;
        self.weights.borrow_mut().push(plain);
        ptr
    }

    /// A region of the plan; a weight is read (as f32) and found.
    pub fn region(&self, place: Place, _role: &'static str) -> Result<Region, BindError> {
        Ok(match place {
            Place::Constants => Region::Constants,
            Place::State => Region::State,
            Place::Request => Region::Request,
            Place::Scratch => Region::Scratch,
            Place::Input(i) => Region::Input(i),
            Place::Output(i) => Region::Output(i),
            Place::Weight(id) => {
                let plain = self.store.borrow_mut().f32(id)?;
                Region::Fixed(Fixed(self.keep(plain).cast()))
            }
        })
    }
}
