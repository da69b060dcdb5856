"""raydistill from Python: label a corpus, train a student, use it. Models are names on the hub, or folders.

python examples/quickstart.py corpus.txt classes.txt out [TEACHER STUDENT]
"""

import sys

from raydistill import DistillConfig, distill


def main(
    corpus: str,
    classes: str,
    output_dir: str,
    teacher: str = "roberta-large-mnli",
    student: str = "distilbert-base-uncased",
) -> None:
    config = DistillConfig(
        data_file=corpus,
        class_names_file=classes,
        output_dir=output_dir,
        teacher_name_or_path=teacher,
        student_name_or_path=student,
        hypothesis_template="This text is about {}.",
        num_train_epochs=2,  # any field of transformers.TrainingArguments, by its own name
    )
    result = distill(config)
    print(f"student in {result.output_dir}, agreement with the teacher {result.figures['agreement']:.1%}")

    from transformers import pipeline

    classify = pipeline("text-classification", model=result.output_dir, truncation=True)
    print(classify("The striker scored twice in the final minutes."))


if __name__ == "__main__":
    main(*sys.argv[1:])
