//! Owns the plots (SVG): ratios to the thresholds as bars, and time per pod against the number of nodes. Called by the
//! programs for `--plot`. It must draw only what was measured.

use crate::catalog::SCALE;
use crate::run::outcome::CaseResult;
use plotters::prelude::*;
use std::path::Path;

/// Why a plot was not drawn.
#[derive(Debug, thiserror::Error)]
#[error("the plot {file} was not drawn: {reason}")]
pub struct PlotError {
    file: String,
    reason: String,
}

/// Named series of points.
pub type Series = (String, Vec<(f64, f64)>);

fn failed(file: &Path, reason: impl std::fmt::Display) -> PlotError {
    PlotError {
        file: file.display().to_string(),
        reason: reason.to_string(),
    }
}

/// Draws results: time per pod against nodes if they are of the workload `Scale`, rates otherwise.
pub fn results(file: &Path, results: &[CaseResult]) -> Result<(), PlotError> {
    let good: Vec<&CaseResult> = results.iter().filter(|result| result.failure.is_none()).collect();
    if good.is_empty() {
        return Err(failed(file, "no case ended well"));
    }
    if good.iter().all(|result| result.workload == SCALE) {
        let each = |pick: fn(&CaseResult) -> f64| good.iter().map(|r| (r.nodes as f64, pick(r))).collect();
        let series: Vec<Series> = vec![
            (
                "reading and deciding".to_owned(),
                each(|r| r.seconds * 1e6 / r.pods as f64),
            ),
            (
                "deciding".to_owned(),
                each(|r| r.decide_seconds.unwrap_or(r.seconds) * 1e6 / r.pods as f64),
            ),
        ];
        return lines(file, "Time for a pod", "nodes", "µs for a pod", &series);
    }
    bars(file, &good)
}

/// Lines through points.
pub fn lines(file: &Path, title: &str, x: &str, y: &str, series: &[Series]) -> Result<(), PlotError> {
    let all = || series.iter().flat_map(|(_, points)| points);
    let x_max = all().map(|(x, _)| *x).fold(0.0, f64::max);
    let y_max = all().map(|(_, y)| *y).fold(0.0, f64::max) * 1.1;
    draw_lines(file, title, (x, x_max), (y, y_max.max(1e-9)), series).map_err(|error| failed(file, error))
}

fn draw_lines(
    file: &Path,
    title: &str,
    (x, x_max): (&str, f64),
    (y, y_max): (&str, f64),
    series: &[Series],
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(file, (900, 520)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 22))
        .margin(14)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..x_max, 0.0..y_max)?;
    chart.configure_mesh().x_desc(x).y_desc(y).draw()?;
    for (at, (name, points)) in series.iter().enumerate() {
        let color = Palette99::pick(at).to_rgba();
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        if points.len() < 60 {
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, color.filled())))?;
        }
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

fn bars(file: &Path, results: &[&CaseResult]) -> Result<(), PlotError> {
    draw_bars(file, results).map_err(|error| failed(file, error))
}

/// Pods a second on a logarithmic scale, with the threshold as a mark on each bar.
fn draw_bars(file: &Path, results: &[&CaseResult]) -> Result<(), Box<dyn std::error::Error>> {
    let rows = results.len();
    let root = SVGBackend::new(file, (1100, 70 + 22 * rows as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let rates = results
        .iter()
        .flat_map(|r| [r.pods_per_s, r.threshold.unwrap_or(r.pods_per_s)]);
    let (least, most) = rates.fold((f64::MAX, 1.0), |(least, most): (f64, f64), rate| {
        (least.min(rate), most.max(rate))
    });
    let left = (least.max(1.0) / 2.0).max(1.0);
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "Pods a second; the mark is kube-scheduler's threshold",
            ("sans-serif", 18),
        )
        .margin(10)
        .x_label_area_size(28)
        .y_label_area_size(430)
        .build_cartesian_2d((left..most * 1.5).log_scale(), 0.0..rows as f64)?;
    let name = |y: &f64| {
        let at = rows as f64 - *y - 0.5;
        let whole = (at - at.round()).abs() < 1e-6 && at >= -1e-6 && (at.round() as usize) < rows;
        match whole {
            true => format!(
                "{} {}",
                results[at.round() as usize].workload,
                results[at.round() as usize].case
            ),
            false => String::new(),
        }
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()?;
    for (at, result) in results.iter().enumerate() {
        let y = (rows - at) as f64 - 0.5;
        chart.draw_series([Rectangle::new(
            [(left, y - 0.35), (result.pods_per_s, y + 0.35)],
            BLUE.mix(0.5).filled(),
        )])?;
        if let Some(threshold) = result.threshold {
            chart.draw_series([PathElement::new(
                [(threshold, y - 0.45), (threshold, y + 0.45)],
                RED.stroke_width(3),
            )])?;
        }
        let place = chart.backend_coord(&(left, y));
        let style = ("sans-serif", 13).into_font().color(&BLACK);
        let style = style.pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Right,
            plotters::style::text_anchor::VPos::Center,
        ));
        root.draw(&Text::new(name(&y), (place.0 - 8, place.1), style))?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(workload: &str, nodes: u64) -> CaseResult {
        CaseResult {
            workload: workload.to_owned(),
            case: format!("{nodes}Nodes"),
            nodes,
            pods: 100,
            seconds: 0.5,
            pods_per_s: 200.0,
            threshold: Some(20.0),
            ..CaseResult::default()
        }
    }

    #[test]
    fn plots_name_what_they_show() {
        let directory = tempfile::tempdir().unwrap();
        for (workload, words) in [(SCALE, "deciding"), ("SchedulingBasic", "SchedulingBasic 10Nodes")] {
            let file = directory.path().join(format!("{workload}.svg"));
            results(&file, &[result(workload, 10), result(workload, 20)]).unwrap();
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.starts_with("<svg") && text.contains(words), "{workload}");
        }
    }

    #[test]
    fn nothing_is_drawn_of_failures_only() {
        let mut failure = result("A", 1);
        failure.failure = Some("no".to_owned());
        assert!(results(Path::new("/nonexistent/a.svg"), &[failure]).is_err());
    }
}
