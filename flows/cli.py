"""The command line: its commands."""

import typer

from flows.commands import cache, cluster, data, experiments, images, models, predict
from flows.errors import OneLineErrors
from flows.main import main

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From label maps to robust street-scene segmentation: generate stylized images (DGInStyle), train segmenters"
    " (FLEX-Seg), evaluate them on domains that they have never seen. Start with: flexseg run toy",
)
for command in (
    experiments.run,
    experiments.plan,
    images.generate,
    images.export,
    experiments.train,
    experiments.evaluate,
    predict.predict,
    experiments.compare,
    models.convert,
    cluster.regenerate,
    cluster.reevaluate,
    cluster.deploy,
):
    app.command()(command)

weights = typer.Typer(no_args_is_help=True, help="Train and measure the generator's weights.")
weights.command("train")(models.weights_train)
weights.command("measure")(models.weights_measure)
app.add_typer(weights, name="weights")

registered = typer.Typer(no_args_is_help=True, help="Segmenters that every flexseg reevaluate scores.")
registered.command("register")(models.models_register)
registered.command("list")(models.models_list)
app.add_typer(registered, name="models")

data_sets = typer.Typer(no_args_is_help=True, help="Look at the data sets that a config names.")
data_sets.command("check")(data.data_check)
app.add_typer(data_sets, name="data")

artifacts = typer.Typer(no_args_is_help=True, help="Look at the artifact store, verify and tidy it.")
artifacts.command("list")(cache.cache_list)
artifacts.command("verify")(cache.cache_verify)
artifacts.command("prune")(cache.cache_prune)
app.add_typer(artifacts, name="cache")


if __name__ == "__main__":
    main()
