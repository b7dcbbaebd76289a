//! `headrace._native.core`: the scheduler, the engine's timing and the simulator as Python sees them. Thin: it converts
//! arguments and raises ValueError; everything else is in the pure crates.

use pyo3::prelude::*;

mod engine_face;
mod pool_face;
mod simulation_face;

#[pymodule]
fn core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<engine_face::EngineTiming>()?;
    module.add_class::<pool_face::SchedulerPool>()?;
    module.add_class::<simulation_face::TrafficSimulation>()?;
    module.add("POLICIES", simulation_face::names())?;
    module.add("LIVE_POLICIES", pool_face::names())?;
    Ok(())
}
