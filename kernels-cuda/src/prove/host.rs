//! Memory, streams and their order: what a host program does around its launches.
//!
//! Copies have a stream of their own and kernels another. cudarc's tracking of every slice by events is off, since an engine
//! that knows its plan orders a few points instead of every buffer: kernels wait for the uploads before them, downloads and
//! frees wait for the kernels.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, DevicePtr, DeviceRepr, ValidAsZeroBits, sys};
use selftok_kernels_cuda::DevicePointer;
use selftok_kernels_cuda::device::{DeviceError, Kernels};

/// A device with the two streams.
pub struct Host {
    /// The kernels.
    pub kernels: Kernels,
    copies: Arc<CudaStream>,
    compute: Arc<CudaStream>,
}

/// The times of launches, to be read when they are done.
pub struct Marks(Vec<CudaEvent>);

impl Marks {
    /// Milliseconds of the fastest launch. Waits for all of them.
    pub fn best(&self) -> Result<f32, DeviceError> {
        let mut best = f32::INFINITY;
        for pair in self.0.windows(2) {
            best = best.min(call("an event", pair[0].elapsed_ms(&pair[1]))?);
        }
        Ok(best)
    }
}

/// The address of a slice, or null for none.
pub fn address<T>(slice: Option<&CudaSlice<T>>) -> DevicePointer {
    // Without tracking there is nothing to record or to wait for, so the guard has nothing to do.
    slice.map_or(0, |slice| slice.device_ptr(slice.stream()).0)
}

fn call<T>(about: &str, result: Result<T, cudarc::driver::DriverError>) -> Result<T, DeviceError> {
    result.map_err(DeviceError::call(about))
}

impl Host {
    /// Opens a device.
    ///
    /// # Errors
    /// As [`Kernels::open`].
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        let kernels = Kernels::open(ordinal)?;
        let context = kernels.context().clone();
        // SAFETY: every access below is ordered by the events of `run` and by the order of each stream.
        unsafe { context.disable_event_tracking() };
        let copies = call("a stream", context.new_stream())?;
        let compute = call("a stream", context.new_stream())?;
        Ok(Self { kernels, copies, compute })
    }

    /// Uploads values; the kernels of a later [`Host::run`] see them.
    pub fn upload<T: DeviceRepr>(&self, values: &[T]) -> Result<CudaSlice<T>, DeviceError> {
        call("an upload", self.copies.clone_htod(values))
    }

    /// Uploads values through page-locked memory, and waits until the copy is done with it.
    pub fn upload_pinned<T: DeviceRepr + ValidAsZeroBits + Copy>(
        &self,
        values: &[T],
    ) -> Result<CudaSlice<T>, DeviceError> {
        // SAFETY: written below, before anything reads it.
        let pinned = unsafe { self.kernels.context().alloc_pinned::<T>(values.len()) };
        let mut pinned = call("page-locked memory", pinned)?;
        call("page-locked memory", pinned.as_mut_slice())?.copy_from_slice(values);
        let slice = call("an upload", self.copies.clone_htod(&pinned))?;
        // With its tracking off, cudarc does not record when page-locked memory is done with either.
        call("an upload", self.copies.synchronize())?;
        Ok(slice)
    }

    /// Memory for `count` values, all bytes of which are 0.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, count: usize) -> Result<CudaSlice<T>, DeviceError> {
        call("memory", self.copies.alloc_zeros(count))
    }

    /// Memory that nobody wrote.
    pub fn room<T: DeviceRepr>(&self, count: usize) -> Result<CudaSlice<T>, DeviceError> {
        // SAFETY: a kernel writes what is read of it later.
        call("memory", unsafe { self.copies.alloc(count) })
    }

    /// Submits launches after all uploads so far, `repeat` times, and has the copies that follow wait for them. Gives
    /// their times.
    pub fn run(
        &self,
        repeat: usize,
        mut launches: impl FnMut(&CudaStream) -> Result<(), DeviceError>,
    ) -> Result<Marks, DeviceError> {
        self.after_uploads()?;
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let mut marks = vec![call("an event", self.compute.record_event(timed))?];
        for _ in 0..repeat {
            launches(&self.compute)?;
            marks.push(call("an event", self.compute.record_event(timed))?);
        }
        self.before_downloads()?;
        Ok(Marks(marks))
    }

    /// The same, with the launches captured once into a graph and the graph replayed.
    pub fn replay(
        &self,
        repeat: usize,
        launches: impl FnOnce(&CudaStream) -> Result<(), DeviceError>,
    ) -> Result<Marks, DeviceError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        call("a capture", self.compute.begin_capture(mode))?;
        let captured = launches(&self.compute);
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = call("a graph", self.compute.end_capture(flags));
        captured?;
        let Some(graph) = graph? else { return Ok(Marks(Vec::new())) };
        self.run(repeat, |_| call("a graph", graph.launch()))
    }

    /// The kernels that follow wait for the copies so far.
    fn after_uploads(&self) -> Result<(), DeviceError> {
        let uploaded = call("an event", self.copies.record_event(None))?;
        call("a wait", self.compute.wait(&uploaded))
    }

    /// The copies and frees that follow wait for the kernels so far.
    fn before_downloads(&self) -> Result<(), DeviceError> {
        let computed = call("an event", self.compute.record_event(None))?;
        call("a wait", self.copies.wait(&computed))
    }

    /// Downloads a slice and waits for it.
    pub fn download<T: DeviceRepr + ValidAsZeroBits + Copy>(
        &self,
        slice: &CudaSlice<T>,
    ) -> Result<Vec<T>, DeviceError> {
        // SAFETY: the copy below writes all of it before it is read.
        let pinned = unsafe { self.kernels.context().alloc_pinned::<T>(slice.len()) };
        let mut pinned = call("page-locked memory", pinned)?;
        call("a download", self.copies.memcpy_dtoh(slice, &mut pinned))?;
        call("a download", self.copies.synchronize())?;
        Ok(call("a download", pinned.as_slice())?.to_vec())
    }

    /// Waits for all that was submitted, frees included.
    pub fn finish(&self) -> Result<(), DeviceError> {
        call("the copies", self.copies.synchronize())?;
        call("the kernels", self.compute.synchronize())
    }
}
