//! exp, tanh, erf and the logistic function on [`Lanes`], to about 2 ulp: written once, compiled for each set.
//!
//! Each has one range reduction, one polynomial and no branch, so that it costs the same whatever the data.
//! NaN gives NaN; infinities give the limits.

use super::Lanes;

/// `e^x`. Cody-Waite reduction by ln 2 in two parts, then the degree-7 polynomial of Cephes `expf`.
#[inline(always)]
pub fn exp<V: Lanes>(x: V) -> V {
    let k = |c: f32| x.splat(c);
    // Outside this range the result is 0 or infinity anyway. `max` and `min` hand NaN through as second operand.
    let x = k(89.0).min(k(-104.0).max(x));
    let n = x.mul(k(std::f32::consts::LOG2_E)).round();
    let r = n.mul_add(k(-0.693_359_4), x); // nine significant bits: n * this is exact, with or without FMA
    let r = n.mul_add(k(2.121_944_4e-4), r);
    let p = k(1.987_569_1e-4).mul_add(r, k(1.398_199_9e-3));
    let p = p.mul_add(r, k(8.333_452e-3));
    let p = p.mul_add(r, k(4.166_579_6e-2));
    let p = p.mul_add(r, k(1.666_666_5e-1));
    let p = p.mul_add(r, k(0.5));
    p.mul_add(r.mul(r), r).add(k(1.0)).ldexp(n)
}

/// The logistic function `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid<V: Lanes>(x: V) -> V {
    let one = x.splat(1.0);
    one.div(one.add(exp(x.splat(0.0).sub(x))))
}

/// Hyperbolic tangent. Cephes `tanhf`: an odd polynomial below 0.625, `1 - 2 / (e^2x + 1)` above.
#[inline(always)]
pub fn tanh<V: Lanes>(x: V) -> V {
    let k = |c: f32| x.splat(c);
    let (a, z) = (x.abs(), x.mul(x));
    let p = k(-5.704_988_7e-3).mul_add(z, k(2.063_908_8e-2));
    let p = p.mul_add(z, k(-5.373_971_6e-2));
    let p = p.mul_add(z, k(1.333_144_3e-1));
    let p = p.mul_add(z, k(-3.333_328e-1));
    let near = p.mul_add(z.mul(x), x);
    let far = k(1.0).sub(k(2.0).div(exp(a.add(a)).add(k(1.0))));
    a.select_lt(k(0.625), near, far.copysign(x))
}

/// Error function. Two minimax polynomials (N. Juffa's `erff`): odd below 475/512, `1 - e^-p(x)` above.
#[inline(always)]
pub fn erf<V: Lanes>(x: V) -> V {
    let k = |c: f32| x.splat(c);
    // erf(4) rounds to 1; the clamp keeps the polynomial's high powers finite.
    let (a, s) = (k(4.0).min(x.abs()), x.mul(x));
    let t = a.mul(a);
    let r = k(-1.728_534_7e-5).mul_add(a, k(3.831_971_3e-4));
    let u = k(-3.883_964_4e-3).mul_add(a, k(2.425_462_2e-2));
    let r = r.mul_add(t, u);
    let r = r.mul_add(a, k(-1.067_778_8e-1));
    let r = r.mul_add(a, k(-6.348_467e-1));
    let r = r.mul_add(a, k(-1.287_175_1e-1));
    let r = r.mul_add(a, k(0.0).sub(a));
    let far = k(1.0).sub(exp(r)).copysign(x);
    let p = k(-5.967_617e-4).mul_add(s, k(4.991_194_2e-3));
    let p = p.mul_add(s, k(-2.676_813_5e-2));
    let p = p.mul_add(s, k(1.128_199_25e-1));
    let p = p.mul_add(s, k(-3.761_253_4e-1));
    let p = p.mul_add(s, k(1.283_791_7e-1));
    let near = p.mul_add(x, x);
    x.abs().select_lt(k(475.0 / 512.0), near, far)
}

#[cfg(test)]
mod tests {
    //! Each function on each instruction set against f64, in units in the last place of the f32 result.

    use crate::{Isa, arch};

    /// erf in f64: the Maclaurin series where it converges fast, the continued fraction of erfc beyond.
    fn erf64(x: f64) -> f64 {
        let a = x.abs();
        let value = if a < 2.5 {
            let (mut term, mut sum, mut n) = (a, a, 0.0);
            while term.abs() > 1e-20 {
                n += 1.0;
                term *= -a * a / n;
                sum += term / (2.0 * n + 1.0);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        } else {
            let tail = (1..200).rev().fold(0.0, |f, n| n as f64 / 2.0 / (a + f));
            1.0 - (-a * a).exp() / (a + tail) * std::f64::consts::FRAC_2_SQRT_PI / 2.0
        };
        value.copysign(x)
    }

    fn ulps(got: f32, want: f64) -> f64 {
        let near = want as f32;
        let ulp = (f32::from_bits(near.abs().to_bits() + 1) - near.abs()) as f64;
        (got as f64 - want).abs() / ulp
    }

    fn apply(isa: Isa, name: &str, x: f32) -> f32 {
        match isa {
            Isa::Portable => match name {
                "exp" => arch::portable::math::exp(x),
                "tanh" => arch::portable::math::tanh(x),
                "erf" => arch::portable::math::erf(x),
                _ => arch::portable::math::sigmoid(x),
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller asks only for sets that `Isa::available` lists.
            Isa::Avx2 => unsafe {
                use std::arch::x86_64::*;
                let v = _mm256_set1_ps(x);
                _mm256_cvtss_f32(match name {
                    "exp" => arch::avx2::math::exp(v),
                    "tanh" => arch::avx2::math::tanh(v),
                    "erf" => arch::avx2::math::erf(v),
                    _ => arch::avx2::math::sigmoid(v),
                })
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller asks only for sets that `Isa::available` lists.
            Isa::Avx512 => unsafe {
                use std::arch::x86_64::*;
                let v = _mm512_set1_ps(x);
                _mm512_cvtss_f32(match name {
                    "exp" => arch::avx512::math::exp(v),
                    "tanh" => arch::avx512::math::tanh(v),
                    "erf" => arch::avx512::math::erf(v),
                    _ => arch::avx512::math::sigmoid(v),
                })
            },
            #[cfg(not(target_arch = "x86_64"))]
            other => panic!("{} is not available here", other.name()),
        }
    }

    /// A function's name, its f64 twin, the range to sweep, and the bound in ulp.
    type Case = (&'static str, fn(f64) -> f64, f32, f32, f64);

    #[test]
    fn every_set_is_within_its_bound_over_the_range() {
        let cases: [Case; 4] = [
            ("exp", f64::exp, -87.0, 88.7, 2.0),
            ("tanh", f64::tanh, -10.0, 10.0, 2.0),
            ("erf", erf64, -5.0, 5.0, 2.0),
            ("sigmoid", |x| 1.0 / (1.0 + (-x).exp()), -87.0, 30.0, 3.0),
        ];
        for isa in Isa::available() {
            for (name, twin, low, high, bound) in cases {
                let mut worst = (0.0, 0.0);
                // A dense sweep, and one geometric in the magnitude so that values near zero are judged too.
                let steps = 200_000;
                let sweep = (0..=steps).map(|i| low + (high - low) * (i as f32 / steps as f32));
                let tiny =
                    (0..2000).map(|i| 1e-30f32 * 1.07f32.powi(i % 1000) * if i < 1000 { 1.0 } else { -1.0 });
                for x in sweep.chain(tiny.filter(|x| (low..high).contains(x))) {
                    let error = ulps(apply(isa, name, x), twin(x as f64));
                    if error > worst.0 {
                        worst = (error, x);
                    }
                }
                println!("{name} {} {:.2} ulp at {:e}", isa.name(), worst.0, worst.1);
                assert!(worst.0 <= bound, "{name} on {}: {} ulp at {:e}", isa.name(), worst.0, worst.1);
            }
        }
    }

    #[test]
    fn limits_and_nan_come_out_as_they_should() {
        for isa in Isa::available() {
            let f = |name, x| apply(isa, name, x);
            for name in ["exp", "tanh", "erf", "sigmoid"] {
                assert!(f(name, f32::NAN).is_nan(), "{name} on {}", isa.name());
            }
            assert_eq!((f("exp", f32::INFINITY), f("exp", f32::NEG_INFINITY)), (f32::INFINITY, 0.0));
            assert_eq!((f("exp", 88.8), f("exp", 0.0)), (f32::INFINITY, 1.0));
            let subnormal = f("exp", -100.0) as f64;
            assert!((subnormal / (-100f64).exp() - 1.0).abs() < 0.05, "{subnormal:e} on {}", isa.name());
            assert_eq!((f("tanh", f32::INFINITY), f("tanh", f32::NEG_INFINITY)), (1.0, -1.0));
            assert_eq!((f("erf", f32::INFINITY), f("erf", f32::NEG_INFINITY)), (1.0, -1.0));
            assert_eq!((f("sigmoid", f32::INFINITY), f("sigmoid", f32::NEG_INFINITY)), (1.0, 0.0));
        }
    }
}
