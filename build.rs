//! Tells the compiler what kind of interpreter it builds for (`Py_GIL_DISABLED`, `Py_3_12`, ...).

fn main() {
    #[cfg(feature = "python")]
    pyo3_build_config::use_pyo3_cfgs();
    println!("cargo::rustc-check-cfg=cfg(Py_GIL_DISABLED)");
}
