//! What the black box has to know of one kind of network.

use super::{NamedTensors, Runner};
use crate::Error;
use selftok_graph::Graph;
use selftok_loader::TensorSource;
use std::sync::Arc;

/// The graph that serves inputs of certain shapes.
pub struct Entry {
    /// Its inputs carry the reference library's names; those that a caller gives must have just these shapes.
    pub graph: Graph,
    /// Where its weights are.
    pub weights: Arc<dyn TensorSource>,
    /// Its outputs that the caller gets; empty for all of them.
    pub outputs: &'static [&'static str],
}

/// An open network of one kind: knows which graph serves which inputs. A row of [`REGISTRY`](super::REGISTRY) makes it.
pub trait Architecture: Send + Sync {
    /// All inputs with their shapes, as messages say them: `pixel_values [B, 3, H, W]`.
    fn signature(&self) -> &str;

    /// Names of inputs that a caller may give.
    fn inputs(&self) -> &[&'static str];

    /// Names of all results, of whichever graph.
    fn outputs(&self) -> &[&'static str];

    /// The graph for inputs of these names and shapes. Asked once for each set of shapes; the values do not matter.
    ///
    /// # Errors
    /// If an input is missing, or no graph takes such shapes.
    fn entry(&self, inputs: &NamedTensors) -> Result<Entry, Error>;

    /// The graph's slots for these inputs; those not named are 0. Asked at every run.
    ///
    /// # Errors
    /// If an input's values are not possible.
    fn slots(&self, inputs: &NamedTensors) -> Result<Vec<(&'static str, u32)>, Error>;

    /// Inputs of the graph that the host computes from those given. Asked at every run; none where not overridden.
    ///
    /// # Errors
    /// If an input's values are not possible.
    fn derive(&self, inputs: &NamedTensors) -> Result<NamedTensors, Error> {
        let _ = inputs;
        Ok(NamedTensors::new())
    }

    /// One run. To be overridden where inputs take several runs of the graph.
    ///
    /// # Errors
    /// If the inputs do not fit, or the run fails.
    fn run(&self, inputs: &NamedTensors, runner: &Runner<'_>) -> Result<NamedTensors, Error> {
        runner.run(inputs)
    }
}
